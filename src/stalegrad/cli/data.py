"""`stalegrad data`: the data sets, fetched and verified."""

import argparse

from stalegrad.cli.flags import Commands, add_data_flag, examples, path


def add_data(commands: Commands) -> None:
    parser = commands.add_parser(
        "data",
        help="fetch and verify the data sets",
        description="Fetch data sets from the first source that serves them; verify by SHA-256.",
        epilog=examples(
            "stalegrad data",
            "stalegrad data mnist --data-folder resources/data",
            "stalegrad data --local-data ~/idx-files     # a machine that reaches no network",
        ),
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="mnist, fashion_mnist or both")
    parser.add_argument(
        "--local-data", type=path, metavar="DIR", help="a folder with the IDX files, plain or .gz"
    )
    add_data_flag(parser)
    parser.set_defaults(act=_fetch_data)


def _fetch_data(options: argparse.Namespace) -> None:
    from stalegrad.io.datasets import SHA256, fetch_dataset

    for name in options.names or SHA256:
        place = fetch_dataset(name, options.data_folder, options.local_data)
        print(f"{name}: verified, in {place}")
