"""The arguments of Lightning's Trainer that trainer.extra does not take."""

from __future__ import annotations

# What a field of the recipe sets, or dettoolkit itself, and what to do instead.
OWNED = {
    "accelerator": "set trainer.accelerator",
    "accumulate_grad_batches": "set trainer.accumulate",
    "barebones": "dettoolkit always logs and saves; omit it",
    "callbacks": "dettoolkit adds its own; set trainer.ema or trainer.early_stopping",
    "check_val_every_n_epoch": "set trainer.val_every_epochs",
    "default_root_dir": "set trainer.out",
    "devices": "set trainer.devices",
    "enable_checkpointing": "dettoolkit always saves; set trainer.checkpoint_every_steps",
    "enable_model_summary": "dettoolkit prints its own; omit it",
    "fast_dev_run": "use --check, or set trainer.max_steps to a few",
    "gradient_clip_val": "set trainer.gradient_clip",
    "limit_predict_batches": "dettoolkit predicts without a Trainer; omit it",
    "limit_test_batches": "dettoolkit scores by validating; omit it",
    "limit_val_batches": "a score of some images would not be COCO's; name a smaller json in data.val",
    "log_every_n_steps": "set trainer.log_every_steps",
    "logger": "set trainer.loggers",
    "max_epochs": "set trainer.max_epochs",
    "max_steps": "set trainer.max_steps",
    "min_epochs": "set trainer.early_stopping.patience",
    "min_steps": "set trainer.early_stopping.patience",
    "model_registry": "checkpoints stay in the run's folder; omit it",
    "num_nodes": "set trainer.num_nodes",
    "num_sanity_val_steps": "a score of a few images would count as the best; use --check instead",
    "overfit_batches": "add the overlay overfit.yaml to the command",
    "plugins": "dettoolkit brings its own; omit it",
    "precision": "set trainer.precision",
    "reload_dataloaders_every_n_epochs": "the data of a run does not change; omit it",
    "strategy": "set trainer.strategy",
    "sync_batchnorm": "set trainer.sync_batchnorm",
    "use_distributed_sampler": "dettoolkit brings its own samplers; omit it",
    "val_check_interval": "set trainer.val_every_epochs",
}
