"""A checkpoint to pass on, the average in float16 alone: python examples/small_checkpoint.py runs/cifar10/diffusion OUT

OUT/checkpoint-N serves every command as the run does. It holds neither the trained weights nor what resuming needs.
"""

import sys
from pathlib import Path

from guided_diffusion.checkpoint import open_checkpoint, read_weights, save_checkpoint


def main(run: Path, out: Path) -> None:
    checkpoint = open_checkpoint(run, "diffusion", "classifier", "upsampler")
    name = checkpoint.weights_file().stem
    weights = {name: {key: tensor.half() for key, tensor in read_weights(checkpoint).items()}}
    record = {"kind": checkpoint.kind, "iteration": checkpoint.iteration, "model": checkpoint.model}
    written = save_checkpoint(out, **record, run=checkpoint.run, weights=weights)
    print(f"{written / f'{name}.safetensors'}: {(written / f'{name}.safetensors').stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
