"""One of each kind of file that version 0.1 wrote: python tests/golden/version_0_1/make.py CHECKOUT_OF_0.1

Writes `files.tar.xz` here: prepared data, a diffusion checkpoint with all that resuming needs, a classifier of noisy
images and one of clean ones, guided samples, an evaluation report and a reference file. The networks start from weights
of +-1/16, which pack well, and train for one iteration; `resumed/metrics.jsonl` tells of two more. All paths are
relative, so that the files may be unpacked anywhere.
"""

import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

os.environ |= {"CUDA_VISIBLE_DEVICES": "", "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

HERE = Path(__file__).resolve().parent
MADE = 1_700_000_000
"""Time stamp of all files, seconds since 1970."""


def coarse(constructor, *, everywhere: bool):
    """A network's constructor, the weights then set to +-1/16; everywhere: also those that begin as zero."""
    import torch

    def construct(network, *args, **kwargs):
        constructor(network, *args, **kwargs)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in network.named_parameters():
                if parameter.is_meta:  # it is given a checkpoint's values afterwards
                    continue
                if name.endswith("weight") and "norm" not in name and (everywhere or parameter.any()):
                    parameter.copy_(torch.randint(0, 2, parameter.shape, generator=generator) / 8 - 1 / 16)
                elif "norm" not in name:
                    parameter.zero_()

    return construct


def make() -> None:
    """Write all files into the working directory."""
    import tiny  # noqa: I001  # the modules are those of another tree
    from classifiers.evaluation import EvaluateConfig, evaluate_samples
    from classifiers.guide import load_guide, load_other_guides
    from classifiers.reference import MakeReferenceConfig, make_reference_file
    from guided_diffusion.data.folder import DataConfig
    from guided_diffusion.training.diffusion import train_diffusion

    from classifiers.model import NoisyClassifier
    from classifiers.training import train_classifier
    from guided_diffusion.config import parse
    from guided_diffusion.data.preparation import PrepareConfig, prepare_data
    from guided_diffusion.generation.config import SampleConfig
    from guided_diffusion.generation.run import generate, load_for_sampling
    from guided_diffusion.models.unet import UNet

    UNet.__init__ = coarse(UNet.__init__, everywhere=False)
    NoisyClassifier.__init__ = coarse(NoisyClassifier.__init__, everywhere=True)
    pictures = tiny.write_class_folder(Path("pictures"), per_class=4)
    prepared, diffusion, classifier, judge = Path("prepared"), Path("diffusion"), Path("classifier"), Path("judge")
    prepare_data(PrepareConfig(data=DataConfig(path=pictures, num_workers=0), size=8, out=prepared))
    train_diffusion(tiny.diffusion_config(diffusion, prepared, iterations=1, batch_size=4))
    shutil.copytree(diffusion, "resumed")
    train_diffusion(tiny.diffusion_config(Path("resumed"), prepared, iterations=3, batch_size=4, resume="auto"))
    shutil.rmtree("resumed/checkpoint-0000001")
    shutil.rmtree("resumed/checkpoint-0000003")
    for file in prepared.iterdir():  # evaluation reports hold a print of files' times
        os.utime(file, (MADE, MADE))
    loop = {"iterations": 1, "batch_size": 4, "pooling": "adaptive", "learning_rate": 1e-60}  # weights stay
    train_classifier(tiny.classifier_config(classifier, prepared, diffusion=diffusion, **loop))
    train_classifier(
        tiny.classifier_config(judge, prepared, network=tiny.encoder(channel_mult=(1.0, 1.0, 1.0)), **loop)
    )
    options = ["--diffusion=diffusion", "--classifier=classifier", "--guidance.scale=2", "--steps=3", "--num_samples=6",
               "--shard_size=2", "--batch_size=2", "--clip=null", "--out=samples"]  # fmt: skip
    config = parse(SampleConfig, options)
    model = load_for_sampling(config)
    generate(
        config, model, load_guide(config.classifier, device="cpu"), load_other_guides(config.guidance, device="cpu")
    )
    extractor = "--extractor=classifier:judge"
    evaluate_samples(parse(EvaluateConfig, ["--generated=samples", "--real=prepared", extractor, "--out=report.json"]))
    make_reference_file(parse(MakeReferenceConfig, ["--images=prepared", extractor, "--out=reference.npz"]))


def main(checkout: Path) -> None:
    sys.path[:0] = [str(checkout.resolve()), str(checkout.resolve() / "tests")]
    with tempfile.TemporaryDirectory() as place:
        os.chdir(place)
        make()
        with tarfile.open(HERE / "files.tar.xz", "w:xz") as archive:
            for path in sorted(path for path in Path().rglob("*") if path.is_file()):
                is_kept = path.parts[0] not in ("pictures", "report.html") and path.name not in (".lock", "grid.png")
                if is_kept and (path.parts[0] == "diffusion" or "resume" not in path.parts):
                    archive.add(path, filter=_anonymous)
        os.chdir(HERE)


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.mtime = MADE
    member.uname = member.gname = ""
    return member


if __name__ == "__main__":
    main(Path(sys.argv[1]))
