#!/usr/bin/env bash
# What nights bring on pixels and on features of photographs: test sets, 6 seeds, one set of constants.
#   benchmarks/nights.sh DATA OUT [OPTION ...]
# DATA holds MNIST/raw, FashionMNIST/raw, kmnist.npz, cifar10.npz and mobilenet_v2.pt, a state dict that wants the
# preprocessing below. Options go to continual-ep run, as --seeds 0:3. Features are kept in $CACHE, by default OUT/cache.
# Repeat the command to resume.
set -euo pipefail
data=$1 out=$2
shift 2
export OMP_NUM_THREADS=1
config="$(dirname "$0")/nights.yaml"
backbone=(--backbone mobilenet_v2 --weights "$data/mobilenet_v2.pt" --cache "${CACHE:-$out/cache}" --set stream.scale=max)
preprocessing="resize: 96, crop: 96, interpolation: bicubic, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], turn: 180"

for stream in mnist fashion-mnist "arrays:$data/kmnist.npz"; do
    name=${stream##*/}
    continual-ep run "$config" --root "$data" --stream "$stream" --out "$out/${name%.npz}" "$@"
done
continual-ep run "$config" --stream "arrays:$data/cifar10.npz" "${backbone[@]}" \
    --set stream.images.preprocessing="{$preprocessing}" --out "$out/cifar10-features" "$@"
continual-ep run --out "$out/digits" "$@" # the demo
