"""All commands under one name: guided-diffusion COMMAND [options], or python -m guided_diffusion COMMAND [options]."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__

COMMANDS = {
    "data": {
        "inspect_data": "check a data set and show how a training sees it",
        "prepare_data": "crop and pack a data set once, for faster training",
    },
    "training": {
        "train_diffusion": "train a diffusion model",
        "train_classifier": "train a classifier of noisy or clean images",
        "train_upsampler": "train an upsampler",
        "diagnose_classifier": "test how well a classifier can guide",
        "average_weights": "reconstruct averages of weights of other widths after a training",
        "plot_runs": "plot the curves of training runs",
    },
    "sampling": {
        "sample": "sample a diffusion model, with or without guidance",
        "sweep": "sample and evaluate at many settings, and report the best",
        "upsample": "enlarge samples with an upsampler",
        "inpaint": "fill in the masked parts of images",
        "encode": "encode images into DDIM latents and decode them",
        "export_samples": "write samples as an npz batch, PNG files or a grid",
    },
    "evaluation": {
        "evaluate": "compute FID, precision, recall and the like, or compare reports",
        "make_reference": "compute the statistics of real images once, for all evaluations",
        "likelihood": "compute bits per dimension of held-out images",
    },
    "published models": {
        "import_openai": "import a published .pt file",
        "export_openai": "export a checkpoint to the published layout",
        "import_diffusers": "import a pipeline of Hugging Face diffusers",
        "export_diffusers": "export a model as a pipeline of Hugging Face diffusers",
    },
    "demo": {
        "demo": "train, guide and evaluate on handwritten digits",
        "make_digits": "write scikit-learn's handwritten digits as class folders",
    },
}
"""Modules of commands/ and their purpose, by group; importing the modules themselves for --help would take seconds."""


def main(argv: Sequence[str] | None = None) -> None:
    """Run a command; argv: None takes the process's own arguments. Bad input ends the process with status 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    known = [command for group in COMMANDS.values() for command in group]
    if not words or words[0] in ("-h", "--help"):
        print("usage: guided-diffusion COMMAND [--config FILE.yaml] [--OPTION VALUE ..]")
        for group, commands in COMMANDS.items():
            print(f"\n{group}:", *(f"  {command:<20} {purpose}" for command, purpose in commands.items()), sep="\n")
        print("\nguided-diffusion COMMAND --help lists the options of a command.")
    elif words[0] == "--version":
        print(__version__)
    elif (command := words[0].replace("-", "_")) in known:
        sys.argv = [f"guided-diffusion {command}", *words[1:]]  # the name that usage messages show
        import_module(f".commands.{command}", __package__).main()
    else:
        nearest = difflib.get_close_matches(command, known, n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else "guided-diffusion --help lists all commands"
        print(f"error: there is no command {words[0]}; {advice}", file=sys.stderr)
        raise SystemExit(2)


if __name__ == "__main__":
    main()
