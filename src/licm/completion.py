"""Names that the shell completes, with a word on each; looked up only when a name is being completed."""

from collections.abc import Callable, Iterable

Names = Iterable[str | tuple[str, str]]


def _completing(names: Callable[[], Names]) -> Callable[[str], list[str | tuple[str, str]]]:
    """Returns a function from what is typed so far to the names, or (name, help) pairs, that begin so."""

    def complete(incomplete: str) -> list[str | tuple[str, str]]:
        pairs = ((each if isinstance(each, str) else each[0], each) for each in names())
        return [each for name, each in pairs if name.startswith(incomplete)]

    return complete


def _presets() -> Names:
    from licm.presets import PRESET_NOTES

    return PRESET_NOTES.items()


def _settings() -> Names:
    from licm.catalogue import config_keys

    return [(f"{key}=", about) for key, about in config_keys()]


def _mechanisms() -> Names:
    from licm.catalogue import list_mechanisms

    return [(kind["name"], kind["about"]) for kind in list_mechanisms()["kinds"]]


def _sources() -> Names:
    from licm.catalogue import SOURCES

    return SOURCES.items()


def _models() -> Names:
    from licm.shipped import SHIPPED

    return SHIPPED


complete_preset = _completing(_presets)
complete_setting = _completing(_settings)
complete_mechanism = _completing(_mechanisms)
complete_source = _completing(_sources)
complete_model = _completing(_models)
complete_device = _completing(lambda: ("cpu", "cuda", "mps"))
complete_split = _completing(lambda: ("test", "validation"))
