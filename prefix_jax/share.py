"""`python -m prefix_jax.share --workdir DIR --repo USER/NAME` (or `--tuned DIR/tuned`)

Uploads what was tuned to the Hugging Face hub, with a card, and PEFT's files beside it where PEFT has a form for it.
`--folder DIR` writes the files there in place of an upload.
"""

from pathlib import Path

from absl import flags

from prefix_jax import cli
from prefix_jax.errors import UserError


def define_flags() -> None:
    cli.define_path("workdir", None, "The run directory of a training run.")
    cli.define_path("tuned", None, "A folder with a tuned prefix, in place of --workdir.")
    flags.DEFINE_string("repo", None, "The repository on the hub, USER/NAME; created if it is absent.")
    flags.DEFINE_bool("private", False, "Only its owner may see the repository.")
    cli.define_path("folder", None, "Write the files to this folder, and upload nothing.")
    flags.DEFINE_string("base_model", "", "The base model's name on the hub, if it was loaded from a directory.")
    flags.DEFINE_string("license", "", "The licence as the hub names it; by default that of the base model.")


def main(options: flags.FlagValues) -> None:
    place = options.tuned or options.workdir
    cli.required(workdir=place)
    if not options.folder:
        cli.required(repo=options.repo)
    from prefix_jax import disk, sharing

    run = sharing.of_run(Path(str(place)))
    about = {"base": options.base_model, "license": options.license}
    if options.folder:
        folder = Path(options.folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UserError(f"{folder} is not an empty folder; name another with --folder")
        files = sharing.contents(run, options.repo or folder.resolve().name, **about)
        for part in sorted({Path(path).parent for path in files}):
            inside = {Path(path).name: data for path, data in files.items() if Path(path).parent == part}
            disk.write_all(folder / part, inside)
        print(f"wrote {', '.join(sorted(files))} in {folder}; hf upload {options.repo or 'USER/NAME'} {folder}")
        return
    address = sharing.publish(run, options.repo, private=options.private, **about)
    print(f'{address}\nprefix-jax generate --tuned {options.repo} --input "..."')


if __name__ == "__main__":
    cli.run(main, define_flags)
