"""Who uses which texture and image of a glTF tree, and taking images out of it."""

from collections.abc import Iterable, Iterator
from typing import Any

Json = dict[str, Any]


def texture_infos(node: object) -> Iterator[tuple[Json, str]]:
    """All texture infos at any depth, those of extensions too, as (what holds it, its key): {"index": ...} under a key
    that ends in "Texture"."""
    if isinstance(node, list):
        for item in node:
            yield from texture_infos(item)
    elif isinstance(node, dict):
        for key, value in list(node.items()):
            if key.endswith("Texture") and isinstance(value, dict) and "index" in value:
                yield node, key
            yield from texture_infos(value)


def sources(texture: Json) -> set[int]:
    """The images of one texture: the core specification's, and those that extensions (WebP, KTX2) name beside it."""
    return {place["source"] for place in _places(texture) if "source" in place}


def slots_of(tree: Json, image: int) -> list[str]:
    """The names of the maps that show an image, such as "normalTexture"."""
    showing = {number for number, texture in enumerate(tree.get("textures", [])) if image in sources(texture)}
    infos = texture_infos(tree.get("materials", []))
    return list(dict.fromkeys(key for holder, key in infos if holder[key]["index"] in showing))


def drop_images(tree: Json, gone: set[int]) -> None:
    """Take images out of the tree, with the textures and maps that are left without one, and number the rest anew."""
    textures = tree.get("textures", [])
    lost = set()
    for number, texture in enumerate(textures):
        if sources(texture) & gone:
            for place in _places(texture):
                if place.get("source") in gone:
                    del place["source"]
            extensions = {name: place for name, place in texture.pop("extensions", {}).items() if "source" in place}
            texture.update({"extensions": extensions} if extensions else {})
            lost |= set() if sources(texture) else {number}
    images = _without(tree.get("images", []), gone)
    for texture in textures:
        for place in _places(texture):
            if "source" in place:
                place["source"] = images[place["source"]]
    kept = _without(textures, lost)
    for holder, key in list(texture_infos(tree.get("materials", []))):
        if holder[key]["index"] in lost:
            del holder[key]
        else:
            holder[key]["index"] = kept[holder[key]["index"]]
    for name in ("images", "textures"):
        if not tree.get(name):
            tree.pop(name, None)


def _places(texture: Json) -> Iterable[Json]:
    return [texture, *texture.get("extensions", {}).values()]


def _without(items: list[Json], gone: set[int]) -> dict[int, int]:
    """Take items out of the list; the new number of each that stays."""
    stay = [number for number in range(len(items)) if number not in gone]
    items[:] = [items[number] for number in stay]
    return {old: new for new, old in enumerate(stay)}
