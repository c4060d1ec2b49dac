"""What the command line's help says: what FILE and NAME are, and examples of every command.  Knows words alone."""

from __future__ import annotations

TARGET = """FILE is a Python file that builds a graph; NAME is a Tensor, Program or nn.Graph at its top level, and may be
left out where there is only one.  The file is run as a module: what stands below `if __name__ == "__main__":` does not
run, and Programs that are called while it is read do not train: their results are zeros, and what the file prints
goes to standard error."""

EXAMPLES = {
    "": """examples:
  graphc dump model.py:loss                        the forward graph as text
  graphc dump model.py:step --stage update -o step.svg
  graphc report model.py:step --size batch=128     which kernels were made, and why
  graphc profile model.py:step --size batch=128    time per kernel
  graphc timeline model.py:step -o step.svg        what each thread of a step did when
  graphc check model.py:loss                       gradients against finite differences
  graphc export model.py:step --size batch=32      an object file and a C header: training without Python
  graphc info                                      versions, machine, cache""",
    "dump": """stages, in pipeline order:
  forward     what the outputs need                 gradient    and the gradients of the parameters
  update      the whole step, as it was built       simplified  after expansion and simplification
  plan        kernels, buffers and memory           llvm, asm   the code (these three as text only)

examples:
  graphc dump model.py:loss                        the forward graph as text, which graphc.parse reads back
  graphc dump model.py:loss --stage gradient -o gradient.html
  graphc dump model.py:step -o step.png            the format comes from the suffix
  graphc dump model.py:step --stage plan --size batch=64
  graphc dump model.py:graph --input f32[4,2] --input i64[4]     an nn.Graph that was never called""",
    "report": """example:
  graphc report model.py:step --size batch=128     open dimensions are 32 where no size is given""",
    "profile": """example:
  graphc profile model.py:step --size batch=128 --repeat 50      inputs are random; parameters stay as they are""",
    "timeline": """The step runs as it is, on all its threads, and keeps a record of itself.  Inputs are random; parameters stay
as they are.  The table says of each kernel how long every thread took and how long it waited for the others, then where
all of the step's time went; a file shows one step span by span.

examples:
  graphc timeline model.py:step --size batch=128                  the table; what takes longest comes first
  graphc timeline model.py:step --sort step                       in the order of the step
  graphc timeline model.py:step -o step.svg                       and a picture, one lane per thread
  graphc timeline model.py:step -o step.html                      the same to zoom into
  graphc timeline model.py:step -o step.json                      for https://ui.perfetto.dev or chrome://tracing""",
    "check": """The loss is rebuilt in float64 and its gradient with respect to every trainable parameter (or every floating
input, where there is none) compared with central finite differences.  Exit code 1 where a gradient is wrong.

examples:
  graphc check model.py:loss                       open dimensions are 3 where no size is given
  graphc check model.py:step --size batch=8 --seed 1""",
    "export": """NAME may be several names with commas between them: programs that share parameters share one state.  The object
file needs no library but a few memory functions of C; the header says how to call what, and names the bytes of parameters and
optimizer state, whose first values are those that they have when FILE has been run.

TRIPLE and CPU are LLVM's names.  Machines: x86-64, AArch64 and RISC-V with 64 bits, on any system (ELF, Mach-O, COFF).  For
another machine than this one the processor is x86-64-v3 (2013 and later), generic AArch64 or RISC-V with m, a, f, d and c.

examples:
  graphc export model.py:step --size batch=32                     model.o and model.h: model_step(state, scratch, ...)
  graphc export model.py:train,predict --size batch=32 -o build/digits
  graphc export model.py:step --size batch=1 --target aarch64-unknown-linux-gnu --cpu cortex-a72 -o build/pi
  graphc export model.py:step --size batch=1 --target riscv64-unknown-elf -o build/board
  graphc export model.py:step --size batch=8 --cpu x86-64-v3      any x86-64 processor since 2013, not just this one""",
    "info": "example:\n  graphc info",
    "completion": """examples:
  source <(graphc completion bash)                 for this shell; put it into ~/.bashrc to keep it
  graphc completion zsh > ~/.zfunc/_graphc         a folder in $fpath
  graphc completion fish > ~/.config/fish/completions/graphc.fish""",
}
