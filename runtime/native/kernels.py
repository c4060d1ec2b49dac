def emit_kernel(*a): raise SystemExit
def is_serial(k): return True
def scratch_sizes(k,t): return 0,0
