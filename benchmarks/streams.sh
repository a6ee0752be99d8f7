#!/usr/bin/env bash
# Streams of real data end to end: pixels, features of photographs, other scenarios; test sets, 3 seeds.
#   benchmarks/streams.sh DATA OUT
# DATA holds MNIST/raw, FashionMNIST/raw, kmnist.npz, cifar10.npz, imagenette/ (train, val), imagenette_features.npz and
# mobilenet_v2.pt, a state dict that wants the preprocessing below. Repeat the command to resume.
set -euo pipefail
data=$1 out=$2
here=$(dirname "$0")
common=(--root "$data" --seeds 0:3 --arms sequential,sleep)
backbone=(--backbone mobilenet_v2 --weights "$data/mobilenet_v2.pt" --cache "$out/cache")
preprocessing="interpolation: bicubic, mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5], turn: 180"

for stream in mnist fashion-mnist "arrays:$data/kmnist.npz" "arrays:$data/cifar10.npz"; do
    name=${stream##*/}
    continual-ep run "$here/split_mnist_plain.yaml" "${common[@]}" --stream "$stream" --out "$out/pixels-$name"
done

for network in features features_backprop; do
    config=("$here/$network.yaml" "${common[@]}")
    continual-ep run "${config[@]}" --stream "arrays:$data/imagenette_features.npz" \
        --out "$out/$network-imagenette-given"
    continual-ep run "${config[@]}" --stream "image-folder:$data/imagenette" "${backbone[@]}" \
        --set stream.images.preprocessing="{resize: 256, crop: 224, $preprocessing}" --out "$out/$network-imagenette"
    continual-ep run "${config[@]}" --stream "arrays:$data/cifar10.npz" "${backbone[@]}" \
        --set stream.images.preprocessing="{resize: 96, crop: 96, $preprocessing}" --out "$out/$network-cifar10"
done

continual-ep run "$here/split_mnist_plain.yaml" "${common[@]}" --stream mnist,fashion-mnist \
    --scenario domain-incremental --set stream.experiences=2 --out "$out/cross-modal"
continual-ep run "$here/split_mnist_plain.yaml" "${common[@]}" --scenario domain-incremental \
    --set stream.domains=permuted --out "$out/permuted-mnist"
continual-ep run "$here/split_mnist_plain.yaml" "${common[@]}" --set stream.online=50 --out "$out/online-mnist"
continual-ep run "$here/split_mnist_plain.yaml" "${common[@]}" --set stream.online=50 --set stream.overlap=4 \
    --out "$out/blurry-mnist"
