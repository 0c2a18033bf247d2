"""Tokens of the object against tokens of its context: where the class is, and where the class token looks (A8).

Over a data set, resumable, and under torchrun on several processes:

\b
    python experiments/context_tokens.py
    python experiments/context_tokens.py --model vit_base_patch16_224 --data ImageNetS919 --per-class 5 --out out/b16
    torchrun --nproc-per-node 2 experiments/context_tokens.py --data ImageNetS919 --out out/b16 …
"""

import typer

from vitlens.cli.reproduce import study_command
from vitlens.cli.shared import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(help=__doc__)(study_command("context_tokens"))

if __name__ == "__main__":
    run(app)
