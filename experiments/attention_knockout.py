"""What is left of the class in the patches, and of the decision, when attention edges are cut (B1).

Over a data set, resumable, and under torchrun on several processes:

\b
    python experiments/attention_knockout.py
    python experiments/attention_knockout.py --model vit_base_patch16_224 --data ImageNetS919 --per-class 5 --out out/b16
    torchrun --nproc-per-node 2 experiments/attention_knockout.py --data ImageNetS919 --out out/b16 …
"""

import typer

from vitlens.cli.reproduce import study_command
from vitlens.cli.shared import run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
app.command(help=__doc__)(study_command("attention_knockout"))

if __name__ == "__main__":
    run(app)
