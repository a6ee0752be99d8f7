#!/usr/bin/env bash
# What biases cost a network that sleeps, and which treatment to prefer: held-out training images of MNIST.
#   benchmarks/biases.sh DATA OUT
set -euo pipefail
data=$1 out=$2
here=$(dirname "$0")
common=(--root "$data" --arms sequential,sleep --seeds 0:3 --learning equilibrium-propagation
    --set stream.validation=0.1667 --set evaluate=validation)
continual-ep run "$here/split_mnist_ep.yaml" "${common[@]}" --out "$out/none"
for treatment in ignore current zero-output; do
    continual-ep run "$here/split_mnist_ep.yaml" "${common[@]}" --out "$out/$treatment" \
        --set network.bias=true --set sleep.biases="$treatment"
done
