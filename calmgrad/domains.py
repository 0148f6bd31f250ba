"""What a model is for: the domains, and the metadata and sampler defaults that go with each."""

from dataclasses import dataclass

from calmgrad.formats.cwgt import Metadata, SamplerDefaults


@dataclass(frozen=True, slots=True)
class Domain:
    """Metadata and sampler defaults of a kind of text (FORMATS §5)."""

    metadata: Metadata
    sampler: SamplerDefaults


DOMAINS = {
    "shell": Domain(
        Metadata(
            "shell",
            "BOS;CWD:cwd;GIT:git;HIST(cmd):history*/EXIT:exit;ENV:env*;COMP:completions+;"
            "ATN;CMD:input",
            "| ; && ||",
        ),
        SamplerDefaults(temperature=0.6, top_k=5, max_tokens=32, num_candidates=3),
    ),
    "dictionary": Domain(
        Metadata("dictionary", "BOS;WORD:input/ATN/POS:pos/NOTE:note/IPA:ipa"),
        SamplerDefaults(temperature=0.2, top_k=5, max_tokens=512),
    ),
    # The stop pattern is two newlines, escaped: the metadata is made of lines.
    "prose": Domain(
        Metadata("prose", "BOS;ATN", r"\n\n"),
        SamplerDefaults(temperature=0.8, top_k=8, max_tokens=40, num_candidates=2),
    ),
    "netref": Domain(Metadata("netref"), SamplerDefaults()),
}


def metadata_for(
    domain: str | None, template: str | None = None, stop_conditions: str | None = None
) -> tuple[Metadata, SamplerDefaults]:
    """The metadata of a new model: a domain's, with what is given in its place.

    A domain that is not known has no defaults; no domain, no metadata.
    """
    known = DOMAINS.get(domain or "", Domain(Metadata(domain or ""), SamplerDefaults()))
    base = known.metadata
    return (
        Metadata(
            base.domain,
            base.template if template is None else template,
            base.stop_conditions if stop_conditions is None else stop_conditions,
        ),
        known.sampler,
    )
