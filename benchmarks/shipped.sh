#!/bin/sh
# Trains the models in the box on MELD's transcripts and writes them into src/mmerc/shipped, in about 15 minutes on 4 cores.
# Cut off, the same command goes on.
#
#   DATA   folder with meld/ (default ../shared/data)
#   RUNS   folder for corpora and runs (default runs/shipped)
#   JOBS   runs side by side, one thread each (default 4)
set -eu
DATA=${DATA:-../shared/data}
RUNS=${RUNS:-runs/shipped}
JOBS=${JOBS:-4}
MMERC=${MMERC:-.venv/bin/mmerc}
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1

step() { printf '\n== %s\n' "$*"; "$@"; }

# A corpus, five seeds, and the packing of the best on validation: NAME, options of encode-text, options of train.
ship() {
    corpus=$RUNS/corpora/$1
    [ -e "$corpus/corpus.json" ] || step "$MMERC" corpus import meld "$DATA/meld" --out "$corpus"
    [ -e "$corpus/features/text.safetensors" ] || step "$MMERC" corpus encode-text "$corpus" $2
    step "$MMERC" train df-erc --corpus "$corpus" --config df-erc-meld-text --seeds 5 \
        --jobs "$JOBS" --resume --out "$RUNS/$1" $3
    step "$PYTHON" benchmarks/pack.py "$RUNS/$1" --corpus "$corpus" --name "$1" --out "src/mmerc/shipped/$1"
}

ship meld-text "" ""
ship meld-text-live "--scope utterance --layers 2,4,6" "--set network.causal=true"
