"""The command line options that both training stages share."""

from macs.options import integer, number

WARMUP = 0.1  # share of the optimizer steps in which the learning rate rises from 0
# diffusers.optimization.SchedulerType, which would load diffusers for a --help
SCHEDULERS = (
    "linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup", "piecewise_constant",
)  # fmt: skip

# Options of `add_training_arguments` that leave the result as it is: a run may be resumed with others
NOT_COMPARED = {"output_dir", "num_workers", "resume", "checkpointing_steps", "checkpoints_kept", "report_to"}


def add_training_arguments(parser, *, epochs, lr, batch_size, gradient_accumulation_steps):
    """Adds the options of both stages to an argparse parser, with the stage's own defaults."""
    parser.add_argument("--output_dir", required=True, help="receives checkpoints, figures, logs and the trained model")
    parser.add_argument("--epochs", type=integer(1), default=epochs)
    parser.add_argument("--lr", type=number(0), default=lr, help="peak learning rate of AdamW")
    parser.add_argument("--batch_size", type=integer(1), default=batch_size, help="clips per process and step")
    parser.add_argument("--gradient_accumulation_steps", type=integer(1), default=gradient_accumulation_steps)
    parser.add_argument(
        "--scheduler",
        default="cosine",
        choices=SCHEDULERS,
        help=f"learning rate schedule; the first {WARMUP:.0%}% of the steps warm up",
    )
    parser.add_argument(
        "--mixed_precision", choices=["no", "fp16", "bf16"], help="default: as accelerate is configured, else no"
    )
    parser.add_argument("--seed", type=integer(0), default=0)
    parser.add_argument(
        "--num_workers",
        "--dataloader_num_workers",
        type=integer(0),
        default=4,
        help="processes that read data, per training process",
    )
    parser.add_argument("--resume", metavar="latest|FOLDER", help="checkpoint to continue; latest: of --output_dir")
    parser.add_argument(
        "--checkpointing_steps",
        type=integer(1),
        default=1000,
        help="optimizer steps between checkpoints; there is one after every epoch too",
    )
    parser.add_argument("--checkpoints_kept", type=integer(1), default=2, help="older ones are removed")
    parser.add_argument("--report_to", choices=["tensorboard", "wandb"], help="logs curves and figures there")
