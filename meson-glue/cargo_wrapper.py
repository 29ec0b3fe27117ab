#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Builds the Rust library with cargo, for meson.

The dependency file that cargo writes beside the library becomes ninja's, so no
list of Rust sources is kept: ninja runs cargo again when one of them changes.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

LIBRARY = 'libvirtio_balloon_rs.a'


def workspace():
    """The cargo workspace: the directory above the one that this file is in."""
    return pathlib.Path(__file__).resolve().parent.parent


def dependencies(cargo_depfile):
    """The files that cargo's dependency file names, and the workspace's own."""
    text = cargo_depfile.read_text(encoding='utf-8')
    _, _, sources = text.partition(': ')
    root = workspace()
    manifests = [root / 'Cargo.toml', root / 'Cargo.lock',
                 root / 'rust-balloon' / 'Cargo.toml']
    return sources.split('\n', 1)[0].strip(), manifests


def build(args):
    root = workspace()
    command = [args.cargo, 'build', '--locked', '--release',
               '--package', 'virtio-balloon-rs', '--lib',
               '--manifest-path', str(root / 'Cargo.toml'),
               '--target-dir', args.target_dir]
    # Flags meant for QEMU's own Rust code must not change ours.
    env = {name: value for name, value in os.environ.items()
           if name not in ('RUSTFLAGS', 'CARGO_ENCODED_RUSTFLAGS')}
    if subprocess.run(command, env=env, check=False).returncode != 0:
        sys.exit('virtio-balloon-rs: cargo could not build the library; '
                 'its message is above')
    release = pathlib.Path(args.target_dir) / 'release'
    shutil.copyfile(release / LIBRARY, args.output)
    sources, manifests = dependencies((release / LIBRARY).with_suffix('.d'))
    escaped = ' '.join(str(path).replace(' ', '\\ ') for path in manifests)
    pathlib.Path(args.depfile).write_text(
        f'{args.output}: {sources} {escaped}\n', encoding='utf-8')


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    commands = parser.add_subparsers(required=True)
    root = commands.add_parser('root', help='print where the workspace is')
    root.set_defaults(run=lambda _: print(workspace()))
    library = commands.add_parser('build', help='build the library')
    library.add_argument('--cargo', required=True)
    library.add_argument('--target-dir', required=True)
    library.add_argument('--depfile', required=True)
    library.add_argument('output')
    library.set_defaults(run=build)
    args = parser.parse_args()
    args.run(args)


if __name__ == '__main__':
    main()
