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
                 *sorted((root / 'rust-balloon').glob('*/Cargo.toml'))]
    return sources.split('\n', 1)[0].strip(), manifests


def rust_target(triplet):
    """Rust's name for the machine that a C compiler's triplet names.

    The compiler has no vendor where Debian names it, or another one than Rust.
    """
    machine, *_, system, abi = triplet.strip().split('-')
    machine = {'powerpc64le': 'powerpc64le', 'riscv64': 'riscv64gc',
               'i386': 'i686', 'i486': 'i686', 'i586': 'i686',
               'arm': 'armv7'}.get(machine, machine)
    if system != 'linux':
        sys.exit(f'virtio-balloon-rs: no name of Rust\'s for {triplet} is '
                 'known; set CARGO_BUILD_TARGET')
    return f'{machine}-unknown-linux-{abi}'


def target(args):
    """What the environment says, or the machine that the compiler is for."""
    given = os.environ.get('CARGO_BUILD_TARGET')
    if given:
        print(given)
        return
    said = subprocess.run(args.compiler + ['-dumpmachine'], check=True,
                          stdout=subprocess.PIPE, encoding='utf-8')
    print(rust_target(said.stdout))


def build(args):
    root = workspace()
    command = [args.cargo, 'build', '--locked', '--release',
               '--package', 'capi', '--lib',
               '--manifest-path', str(root / 'Cargo.toml'),
               '--target-dir', args.target_dir]
    release = pathlib.Path(args.target_dir)
    if args.features:
        command += ['--features', args.features]
    if args.target:
        command += ['--target', args.target]
        release /= args.target
    release /= 'release'
    # Flags meant for QEMU's own Rust code must not change ours.
    # Where the library is to be found is decided above.
    env = {name: value for name, value in os.environ.items()
           if name not in ('RUSTFLAGS', 'CARGO_ENCODED_RUSTFLAGS',
                           'CARGO_BUILD_TARGET')}
    if subprocess.run(command, env=env, check=False).returncode != 0:
        sys.exit('virtio-balloon-rs: cargo could not build the library; '
                 'its message is above')
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
    machine = commands.add_parser('target', help='print Rust\'s name of the '
                                  'machine that a C compiler is for')
    machine.add_argument('--compiler', nargs=argparse.REMAINDER, required=True)
    machine.set_defaults(run=target)
    library = commands.add_parser('build', help='build the library')
    library.add_argument('--features')
    library.add_argument('--target')
    library.add_argument('--cargo', required=True)
    library.add_argument('--target-dir', required=True)
    library.add_argument('--depfile', required=True)
    library.add_argument('output')
    library.set_defaults(run=build)
    args = parser.parse_args()
    args.run(args)


if __name__ == '__main__':
    main()
