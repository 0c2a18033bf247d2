"""The paper's experiments by name: the same as `vitlens reproduce --experiment NAME`, as a script that torchrun can start.

    python experiments/paper.py memories
    python experiments/paper.py memories class_change --model vit_base_patch16_224 --data ImageNetS919 --out out/b16
    torchrun --nproc-per-node 2 experiments/paper.py memories --data ImageNetS919 --out out/b16

Without a name it runs all that the data and the model allow. A stopped run goes on where it was stopped.
"""

import sys
from itertools import takewhile

from vitlens.cli.main import main

if __name__ == "__main__":
    names = list(takewhile(lambda argument: not argument.startswith("-"), sys.argv[1:]))
    chosen = [argument for name in names for argument in ("--experiment", name)]
    sys.argv[1:] = ["reproduce", *chosen, *sys.argv[1 + len(names) :]]
    main()
