"""Whether what a causal network reads knows of later utterances."""

from mmerc.config import RunConfig
from mmerc.corpus import Corpus
from mmerc.errors import ConfigError
from mmerc.models import choose_modalities


def require_no_look_ahead(run: RunConfig, corpus: Corpus) -> None:
    """Refuse a causal network on text vectors that were read inside their whole dialogue.

    What features other than a text encoder's know of later utterances, nobody can tell from here.

    Raises:
        ConfigError: the run is causal, its text vectors look ahead; or a modality that is not there.
    """
    names = choose_modalities(run, list(corpus.modalities))
    if not run.network.get("causal"):
        return
    if run.text_encoder and "text" in names and run.text_encoder.scope != "utterance":
        raise ConfigError(
            f"network.causal: a text encoder with the scope {run.text_encoder.scope!r} reads later "
            "utterances; set text_encoder.scope=utterance"
        )
    for name in names:
        if name == "text" and run.text_encoder:
            continue
        recipe = corpus.modalities[name].recipe
        if recipe.get("kind") == "text-encoder" and recipe.get("scope", "dialogue") != "utterance":
            layers = f" --layers {','.join(map(str, recipe['layers']))}" if recipe.get("layers") else ""
            command = f"mmerc corpus encode-text {corpus.path} --encoder {recipe['encoder']}{layers}"
            raise ConfigError(
                f"network.causal: the {name!r} vectors of {corpus.path} know of later utterances (scope "
                f"{recipe.get('scope', 'dialogue')!r}). Either replace them: {command} --scope utterance "
                f"--name {name} --force. Or keep them: give the new ones another --name, and list that one "
                "in `modalities`"
            )
