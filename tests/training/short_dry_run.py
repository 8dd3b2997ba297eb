"""Started once per process by test_acceleration: train_diffusion, whose dry run measures two updates and no more."""

from guided_diffusion.commands.train_diffusion import main
from guided_diffusion.training import dry_run

dry_run.MEASURED_SECONDS = 0.0
main()
