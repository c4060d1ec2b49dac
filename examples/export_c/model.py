"""A network that is trained by a C program: forward, gradient, optimizer and all.

    graphc export examples/export_c/model.py:train,predict --size batch=32 -o curve
    cc -O2 -I. examples/export_c/main.c curve.o -o curve && ./curve

For another machine: --target aarch64-unknown-linux-gnu --cpu cortex-a72, and that machine's compiler.
"""

from __future__ import annotations

import graphc
from graphc import nn, optim

graphc.manual_seed(1)
x, y = graphc.placeholder("x", ("batch", 2)), graphc.placeholder("y", ("batch", 1))
model = nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))
loss = nn.MSELoss()(model(x), y)
optimizer = optim.AdamW(model.parameters(), lr=1e-2)
train = graphc.train_step(loss, optimizer, lr_scheduler=optim.lr_scheduler.CosineAnnealingLR(optimizer, 3000))
predict = graphc.function([x], {"y": model(x)})
