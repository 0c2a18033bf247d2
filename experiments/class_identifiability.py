"""How well the true class can be read off every token, block by block, beside freshly initialised models (A1 to A4).

Over a data set, resumable, and under torchrun on several processes:

\b
    python experiments/class_identifiability.py
    python experiments/class_identifiability.py --model vit_base_patch16_224 --data ImageNetS919 --per-class 5 --out out/b16
    torchrun --nproc-per-node 2 experiments/class_identifiability.py --data ImageNetS919 --out out/b16 …
"""

import typer

from vitlens.cli.reproduce import study_command
from vitlens.cli.shared import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(help=__doc__)(study_command("class_identifiability"))

if __name__ == "__main__":
    run(app)
