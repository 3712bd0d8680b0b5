#!/bin/sh
# Everything behind docs/results.md, in about three hours on 4 cores. Cut off, the same command goes on.
# Takes about 40 GB of disk, 35 of them the state.pt of finished runs, which may be deleted at the end.
#
#   DATA   folder with meld/, hazumi1911/ and hazumi2010/ (default ../shared/data)
#   RUNS   folder for corpora, runs and tables (default runs/results)
#   JOBS   runs side by side, one thread each (default 4)
set -eu
DATA=${DATA:-../shared/data}
RUNS=${RUNS:-runs/results}
JOBS=${JOBS:-4}
MMERC=${MMERC:-.venv/bin/mmerc}
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=1
CORPORA=$RUNS/corpora

step() { printf '\n== %s\n' "$*"; "$@"; }

# Corpora.
if [ ! -e "$CORPORA/scripted/corpus.json" ]; then
    step "$MMERC" corpus import scripted --out "$CORPORA/scripted"
    step "$MMERC" corpus encode-text "$CORPORA/scripted"
fi
if [ ! -e "$CORPORA/meld/corpus.json" ]; then
    step "$MMERC" corpus import meld "$DATA/meld" --out "$CORPORA/meld"
    step "$MMERC" corpus encode-text "$CORPORA/meld"
fi
for name in hazumi1911 hazumi2010; do
    if [ ! -e "$CORPORA/$name/corpus.json" ]; then
        step "$MMERC" corpus import table "$DATA/$name/utterances.csv" --out "$CORPORA/$name" --name "$name" \
            --features "text=$DATA/$name/text.npy" --features "audio=$DATA/$name/audio.npy" \
            --features "visual=$DATA/$name/visual.npy" --labels negative,neutral,positive
    fi
done
HAZUMI=$CORPORA/hazumi1911,$CORPORA/hazumi2010
RATES=training.learning_rate=0.0003,0.001,0.003

# Every model is tuned on every corpus with one seed and one fold: six trials; on MELD, where a run is long, three.
# The best on validation is benchmarked.
step "$MMERC" sweep --models all --corpora "$HAZUMI,$CORPORA/scripted" --out "$RUNS/tuning" --seeds 1 --folds 0 \
    --grid $RATES --grid network.dropout=0.3,0.5 --settings benchmarks/settings.yaml --best "$RUNS/tuned.yaml" \
    --jobs "$JOBS"
step "$MMERC" sweep --models all --corpora "$CORPORA/meld" --out "$RUNS/tuning" --seeds 1 \
    --grid $RATES --settings "$RUNS/tuned.yaml" --best "$RUNS/tuned.yaml" --jobs "$JOBS"

# All models: two seeds of five folds on the hazumi corpora, three seeds on the others.
step "$MMERC" benchmark --models all --corpora "$HAZUMI" --seeds 2 --settings "$RUNS/tuned.yaml" \
    --out "$RUNS/benchmark" --jobs "$JOBS"
step "$MMERC" benchmark --models all --corpora "$CORPORA/scripted,$CORPORA/meld" --seeds 3 \
    --settings "$RUNS/tuned.yaml" --out "$RUNS/benchmark" --jobs "$JOBS"

# What choosing the epoch on test would report, as several official repositories do.
step "$MMERC" benchmark --models df-erc,mm-dfn,cfn-esa,late-fusion --corpora "$CORPORA/meld,$CORPORA/hazumi1911" \
    --oracle --seeds 3 --settings "$RUNS/tuned.yaml" --out "$RUNS/oracle" --jobs "$JOBS"

# DF-ERC's ablations, its figure 9, and what the paper does not have.
step "$MMERC" ablate --corpora "$CORPORA/scripted" --tables components,modalities,missing --seeds 3 \
    --settings "$RUNS/tuned.yaml" --out "$RUNS/ablation-refined" --jobs "$JOBS"
step "$MMERC" ablate --corpora "$CORPORA/hazumi1911" --tables components --seeds 2 \
    --settings "$RUNS/tuned.yaml" --out "$RUNS/ablation-refined" --jobs "$JOBS"
step "$MMERC" ablate --corpora "$CORPORA/scripted" --preset paper-meld --tables components,modalities,missing --seeds 3 \
    --settings benchmarks/settings.yaml --out "$RUNS/ablation-paper" --jobs "$JOBS"
step "$MMERC" sweep --models df-erc --corpora "$CORPORA/scripted" --out "$RUNS/alpha-3" --seeds 3 --test \
    --grid network.alpha_similarity=0,0.1,0.3,0.5,1,2 --settings "$RUNS/tuned.yaml" --jobs "$JOBS"

# Does the gate beat full context? That of the paper, and that of `refined` with either kind of initial weights.
step "$MMERC" sweep --models df-erc --corpora "$CORPORA/hazumi1911" --out "$RUNS/gate-paper" --seeds 3 --test \
    --grid network.refusion=agreement,full,zero --set preset=paper-meld --settings benchmarks/settings.yaml --jobs "$JOBS"
step "$MMERC" sweep --models df-erc --corpora "$CORPORA/scripted" --out "$RUNS/gate-refined" --seeds 3 --test \
    --grid network.refusion=agreement,full --grid network.initial_weights=torch,kaiming \
    --grid network.agreement_on=vectors,emotions --settings "$RUNS/tuned.yaml" --jobs "$JOBS"
mkdir -p docs/figures

for kind in png svg csv; do
    cp "$RUNS/alpha-3/scripted/df-erc/sweep.$kind" "docs/figures/alpha-3.$kind"
done

# Causal mode: text vectors of single utterances, so that the features do not look ahead either.
LOOKING_AHEAD=df-erc,mm-dfn,cfn-esa,dialogue-crn,dialogue-rnn,late-fusion
if [ ! -e "$CORPORA/causal/corpus.json" ]; then
    step "$MMERC" corpus import scripted --out "$CORPORA/causal"
    step "$MMERC" corpus encode-text "$CORPORA/causal" --scope utterance --layers 2,4,6
fi
step "$MMERC" ablate --corpora "$CORPORA/causal" --tables causal --models "$LOOKING_AHEAD" --seeds 2 \
    --settings "$RUNS/tuned.yaml" --out "$RUNS/causal" --jobs "$JOBS"

# From one corpus to another: audio and video, which the two have in common.
step "$MMERC" transfer --corpora "$HAZUMI" --modalities audio,visual --seeds 2 \
    --settings benchmarks/settings.yaml --out "$RUNS/transfer" --jobs "$JOBS"

# The paper's figures, calibration, shifts, speakers.
for name in scripted hazumi1911; do
    step "$MMERC" analyze "$RUNS/ablation-refined/$name/full" --corpus "$CORPORA/$name" \
        --compare "$RUNS/ablation-refined/$name" --out "docs/figures/$name"
done
step "$MMERC" analyze "$RUNS/ablation-paper/scripted/full" --corpus "$CORPORA/scripted" \
    --compare "$RUNS/ablation-paper/scripted" --out docs/figures/scripted-paper
for name in hazumi2010 meld; do
    step "$MMERC" analyze "$RUNS/benchmark/$name/df-erc" --corpus "$CORPORA/$name" --out "docs/figures/$name"
done

# Into the page.
step "$PYTHON" benchmarks/fill_results.py docs/results.md "$RUNS"
