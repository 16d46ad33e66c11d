"""Fine-tune Stable Diffusion on UV texture atlases: only texels that land on the model count.

A run that a CPU does in minutes, on meshes made by code and the small base that comes along:

    python -m texdiff.demo.make outputs/meshes
    texdiff prepare outputs/meshes --output outputs/dataset
    accelerate launch --config_file accelerate_config.yaml train_texture.py --config configs/demo.yaml

Settings come from files and flags (--help); precision and the number of processes from accelerate's own file.
The same command again goes on where the run stopped.
"""

import sys
from contextlib import nullcontext

from texdiff.config import TrainingConfig, parse_command_line, report_error
from texdiff.errors import InputError


def train(config: TrainingConfig, dry_run: bool) -> None:
    """One run, from the dataset to exported weights."""
    # Imported here, so that --help and a wrong key need not wait for torch.
    import torch
    from tqdm import tqdm

    from texdiff.data.dataset import mean_coverage, read_records
    from texdiff.diffusion.loss import masked_error, sample_weights
    from texdiff.diffusion.noise import add_noise, draw, draw_timesteps, sample_keys, seed_layers, training_target
    from texdiff.diffusion.schedule import snr_weights
    from texdiff.training import launch
    from texdiff.training.checkpoint import RunState
    from texdiff.training.encode import encode_dataset
    from texdiff.training.export import export
    from texdiff.training.first_batch import draw_first_batch
    from texdiff.training.models import add_lora, load_base, trainable_parameters
    from texdiff.training.optimizers import make_lr_scheduler, make_optimizer
    from texdiff.training.run_folder import RunLog, choose_run_folder
    from texdiff.training.validation import Validation

    run, data, noise = config.run, config.data, config.noise

    # What is about to happen.
    folder, checkpoint = choose_run_folder(run.output_dir, run.resume)
    accelerator = launch.start_accelerator(run.report_to, folder)
    columns = (data.image_column, data.mask_column, data.caption_column, config.mask.weight == "surface")
    records, held_out = (read_records(data.dataset, split, *columns) for split in ("train", "validation"))
    base = load_base(config.model.pretrained_model_name_or_path, config.model.revision, config.model.variant)
    passes = launch.split_batch(run.train_batch_size, run.gradient_accumulation_steps, accelerator)
    sizes = launch.Sizes(len(records), len(held_out), mean_coverage(records), passes.effective_batch)
    launch.announce(config, accelerator, sizes, folder, checkpoint)
    if dry_run:
        return

    # What the frozen encoders make of the dataset, once; then their memory is free.
    textures, held_out_textures = encode_dataset(config, base, accelerator, records, held_out)
    scaling_factor = base.scaling_factor
    base.release("vae", "text_encoder")
    launch.open_run_folder(config, accelerator, folder, sizes)

    # The U-Net: frozen under adapters, or trained whole.
    unet, dtype = base.unet, launch.weight_dtype(accelerator)
    if config.model.train == "lora":
        add_lora(unet.to(dtype), config.lora, run.seed)
    if run.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
    parameters = trainable_parameters(unet)
    optimizer = make_optimizer(config.optim, parameters.values())
    lr_scheduler = make_lr_scheduler(config.optim, optimizer, run.max_train_steps)
    model, optimizer = accelerator.prepare(unet.train(), optimizer)
    alphas, prediction_type = base.scheduler.alphas_cumprod, base.scheduler.config.prediction_type

    # A run that was stopped goes on. Progress is one number, since every draw is keyed by its sample.
    state = RunState(parameters, optimizer, lr_scheduler, accelerator, config, textures.content, passes.effective_batch)
    first_step = state.load(checkpoint) if checkpoint else 0
    log = RunLog(folder, accelerator, first_step, passes.effective_batch)
    validation = Validation(config, base, unet, accelerator, log, held_out_textures, records, folder)
    if first_step == 0:
        if accelerator.is_main_process:
            draw_first_batch(textures, sample_keys(run.seed, 0, passes.effective_batch, len(textures)), config, folder)
        validation.loss(step=0)  # the base's own figure and pictures, to compare with
        validation.pictures(step=0)

    bar = tqdm(initial=first_step, total=run.max_train_steps, unit="step", disable=not accelerator.is_main_process)
    for step in range(first_step, run.max_train_steps):
        # The samples of the effective batch, and what each weighs in it: known before any of them is looked at.
        keys = sample_keys(run.seed, step * passes.effective_batch, passes.effective_batch, len(textures))
        texels = textures.texels[[index for _, index in keys]]
        weights = sample_weights(texels, config.mask.reduction)
        timesteps = draw_timesteps(run.seed, keys, len(alphas))
        loss = torch.zeros((), device=accelerator.device)
        for mine, last in passes:
            draws = draw(run.seed, keys[mine], textures.latent_shape, timesteps[mine], noise.offset)
            batch = textures.batch([index for _, index in keys[mine]], draws.caption, data.caption_dropout)
            weight = weights[mine]  # [B]
            if noise.snr_gamma is not None:
                weight = weight * snr_weights(prediction_type, draws.timesteps, alphas, noise.snr_gamma)
            batch, draws = batch.to(accelerator.device, dtype), draws.to(accelerator.device)
            weight = weight.to(accelerator.device)

            latents = scaling_factor * (batch.mean + batch.std * draws.posterior)  # [B, 4, h, w]
            noisy = add_noise(latents, draws.noise, draws.timesteps, alphas)
            target = training_target(prediction_type, latents, draws.noise, draws.timesteps, alphas)
            with nullcontext() if last else accelerator.no_sync(model):
                seed_layers(run.seed, keys[mine])
                prediction = model(noisy.to(dtype), draws.timesteps, batch.text).sample
                part = (weight * masked_error(prediction, target, batch.mask)).sum()
                # The parts of a batch add up to its loss, but ranks average their gradients.
                accelerator.backward(part * accelerator.num_processes)
            loss += part.detach()
        grad_norm = accelerator.clip_grad_norm_(parameters.values(), config.optim.max_grad_norm)
        learning_rate = lr_scheduler.get_last_lr()[0]
        optimizer.step()
        optimizer.zero_grad()
        if not accelerator.optimizer_step_was_skipped:
            lr_scheduler.step()

        # Once in a while: figures, checkpoint, validation.
        done = step + 1
        coverage = texels.mean().item() / textures.cells
        log.add(
            step=done, loss=loss, learning_rate=learning_rate, grad_norm=grad_norm, coverage=coverage, batch=batch.names
        )
        save_now, validate_now = launch.due(done, config)
        if (newest_loss := log.flush_if_due(save_now or validate_now)) is not None:
            bar.set_postfix(loss=f"{newest_loss:.4f}")
        bar.update()
        if save_now:
            state.save(folder, done)
        if validate_now:
            validation.loss(done)
            validation.pictures(done)
        if save_now or validate_now:
            log.restart_clock()
    bar.close()

    export(config, base, unet, folder, accelerator)
    launch.finish(accelerator, folder)


def main() -> None:
    """Entry point: bad input is one line on stderr and exit code 2."""
    command = parse_command_line(usage=__doc__)
    try:
        train(command.config, command.dry_run)
    except InputError as error:
        sys.exit(report_error(error))


if __name__ == "__main__":
    main()
