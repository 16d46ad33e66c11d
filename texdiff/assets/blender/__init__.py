"""texdiff in Blender: draws for the selected objects, and collects them. All work is done by `texdiff`, a process."""

import json
import os
import re
import shutil
import subprocess
import tempfile
import textwrap
import webbrowser
from pathlib import Path

import bpy
import numpy as np
from bpy.props import BoolProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

PYTHON = "python"  # `texdiff blender` puts the one that it runs in here
BASE = "stable-diffusion-v1-5/stable-diffusion-v1-5"
Refused = RuntimeError  # what cannot be done: one line for the user; so are the errors of Blender's own operators


def base_color(material):
    """The input of a material's base colour, and the node whose image it is; None where there is none."""
    nodes = material.node_tree.nodes if material and material.node_tree else []
    socket = next((node.inputs["Base Color"] for node in nodes if node.type == "BSDF_PRINCIPLED"), None)
    node = socket.links[0].from_node if socket and socket.links else None
    return socket, node if node and node.type == "TEX_IMAGE" and node.image else None


def base_color_images(path):
    """The base-colour image (PNG or JPEG) of each material in a GLB by its name, or None."""
    data, images = path.read_bytes(), {}
    length = int.from_bytes(data[12:16], "little")
    tree, binary = json.loads(data[20 : 20 + length]), data[28 + length :]
    for material in tree.get("materials", []):
        info = material.get("pbrMetallicRoughness", {}).get("baseColorTexture")
        source = tree["textures"][info["index"]].get("source") if info else None
        view = {} if source is None else tree["bufferViews"][tree["images"][source]["bufferView"]]
        images[material.get("name")] = binary[view.get("byteOffset", 0) :][: view.get("byteLength", 0)] or None
    return images


def export(path):
    """Write the selected objects, modifiers applied, as a GLB. Returns them, the active one first, and its images."""
    objects = [obj for obj in bpy.context.selected_objects if obj.type == "MESH"]
    if not objects:
        raise Refused("no mesh is selected; select the object first")
    for node in filter(None, (base_color(slot.material)[1] for obj in objects for slot in obj.material_slots)):
        if node.image.source == "TILED":
            raise Refused(f"{node.image.name}: a UDIM texture, and texdiff is for textures of one tile")
    bpy.ops.export_scene.gltf(filepath=str(path), use_selection=True, export_apply=True, export_animations=False)
    return sorted(objects, key=lambda obj: obj != bpy.context.active_object), base_color_images(path)


def check(objects, images):
    """Refuse what would not show a new texture as it is drawn, for the active material."""
    active = objects[0].active_material
    chosen = active and images.get(active.name)
    for obj in objects:
        mesh = obj.evaluated_get(bpy.context.evaluated_depsgraph_get()).data
        layers = mesh.uv_layers
        if not layers:
            raise Refused(f"{obj.name}: no UV map; unwrap it first (edit mode, UV > Smart UV Project), or deselect it")
        if not layers.active.active_render or not (chosen or layers.active_index == 0):
            raise Refused(f"{obj.name}: the active UV map must be the rendered one, and the first where no image is")
        for material in filter(None, (slot.material for slot in obj.material_slots)):
            alike = material == active or (chosen and images.get(material.name) == chosen)
            if alike and (material.library or (material.node_tree and not base_color(material)[bool(chosen)])):
                raise Refused(f"{material.name}: must be local, with its colour or image directly at a Principled BSDF")
        faces, corners = ([], []) if chosen else (mesh.polygons, layers[0].data)  # an image may be meant to repeat
        starts, uv = np.array([face.loop_start for face in faces], int), np.array([corner.uv for corner in corners])
        low, high = (edge.reduceat(uv.reshape(-1, 2), starts) for edge in (np.minimum, np.maximum))
        tiles = np.floor((low + high) / 2)
        named = ", ".join(map(str, np.unique((tiles @ [1, 10] + 1001).astype(int))))
        if "," in named and (low > tiles - 1e-4).all() and (high < tiles + 1.0001).all():
            raise Refused(f"{obj.name}: its islands lie in the UDIM tiles {named}; pack them into one")


def change_mode(mode):
    """Edit mode keeps its changes, and its undo history, to itself. Returns the mode that was."""
    before = getattr(bpy.context.view_layer.objects.active, "mode", "OBJECT")
    if before != mode:
        bpy.ops.object.mode_set(mode=mode)
    return before


def put_texture(image, names, objects):
    """Make the image the base colour of the materials with these names; None is for objects without a material."""
    materials = {name: bpy.data.materials[name] if name else bpy.data.materials.new(image.name) for name in names}
    for obj in objects if None in names else []:
        if not obj.material_slots:
            obj.data.materials.append(None)
        for slot in obj.material_slots:
            slot.material = slot.material or materials[None]
    for material in materials.values():
        if bpy.app.version < (5, 0):  # since then they always do
            material.use_nodes = True
        socket, node = base_color(material)
        if material.library or not socket:
            continue  # beside others without an image: glass stays glass
        if node:
            node.image.use_fake_user = True
        else:
            node = material.node_tree.nodes.new("ShaderNodeTexImage")
            node.location = socket.node.location.x - 300, socket.node.location.y
            material.node_tree.links.new(node.outputs["Color"], socket)
        node.image = image


class Job:
    """A command of texdiff, whose words go to files, so that neither process waits for the other. When it has ended
    well, `finish` gets the lines that it wrote, and returns what is to be said."""

    now, said = None, ""  # the one that runs; what came of the last one

    def __init__(self, folder, words, finish):
        self.folder, self.finish, self.stopped, self.progress = folder, finish, False, 0
        self.python = bpy.path.abspath(bpy.context.scene.texdiff.python)
        more = {"env": os.environ | {"PYTHONUTF8": "1"}, "creationflags": getattr(subprocess, "CREATE_NO_WINDOW", 0)}
        if not shutil.which(self.python):
            raise Refused(f"Python {self.python}: not found; choose the one that has texdiff")
        with (folder / "out").open("wb") as out, (folder / "err").open("wb") as err:
            command = [self.python, "-m", "texdiff.cli", *words]
            self.child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, **more)
        Job.now, Job.said = self, ""
        bpy.app.timers.register(poll, first_interval=0.2, persistent=True)

    def read(self, name):
        return re.split(r"[\r\n]+", (self.folder / name).read_text("utf-8", "replace").strip())

    def error(self):
        """texdiff's own line, or the last one."""
        lines = self.read("err")
        if "No module named" in lines[-1]:
            return f"Python {self.python}: has no texdiff, or not all of it; choose the one that has ({lines[-1]})"
        said = next((line for line in lines if line.startswith("texdiff: error: ")), lines[-1])
        said = said or f"texdiff was ended ({self.child.returncode}); is the memory full?"
        return said.removeprefix("texdiff: error: ").replace(f"{self.folder}{os.sep}", "")


def poll():
    """The timer: looks after the child until it has ended."""
    if (job := Job.now) is None:
        return None
    [area.tag_redraw() for window in bpy.context.window_manager.windows for area in window.screen.areas]
    if job.child.poll() is None:
        job.progress = int((re.findall(r"(\d+)%\|", job.read("err")[-1]) or [job.progress])[-1])
        return 0.2
    Job.now = None
    try:
        Job.said = "stopped" if job.stopped else job.error() if job.child.returncode else job.finish(job.read("out"))
    except (AttributeError, LookupError, OSError, Refused) as error:
        Job.said = str(error)
    shutil.rmtree(job.folder, ignore_errors=True)


@bpy.app.handlers.persistent
def end_job(*_):
    """Another file, or the end of Blender: what is being drawn has no place any more."""
    if Job.now:
        Job.now.stopped = True
        Job.now.child.terminate()
        Job.now.child.wait()
        poll()


def draw(given, folder):
    """Texture This: draw a texture for the selected objects, in place of the active material's"""
    mesh, drawn, title = folder / "mesh.glb", folder / "drawn.glb", f"{given.prompt}, {given.seed}"
    objects, before = export(mesh)
    check(objects, before)
    names = [obj.name for obj in objects]
    flags = {name: bpy.path.abspath(getattr(given, name)) for name in ("model", "lora", "layout")}
    flags |= {"negative_prompt": given.negative_prompt, "size": given.size, "mesh": mesh, "output": drawn}
    flags |= {"material": any(before.values()) and getattr(objects[0].active_material, "name", "unnamed")}
    flags |= {"strength": given.restyle and round(given.strength, 4)} | ({} if given.use_layout else {"layout": "none"})
    flags = {name: value for name, value in flags.items() if value} | {"prompt": given.prompt, "seed": given.seed}

    def finish(_):
        changed = {name: i for name, i in base_color_images(drawn).items() if i != before.get(name)}
        (folder / "drawn.png").write_bytes(next(iter(changed.values())))
        mode = change_mode("OBJECT")
        image = bpy.data.images.load(str(folder / "drawn.png"))
        image.name = title
        image.pack()
        image.filepath_raw = f"//{bpy.path.clean_name(image.name)}.png"
        put_texture(image, list(changed), [bpy.data.objects[name] for name in names])
        bpy.ops.ed.undo_push(message="Texture This")
        change_mode(mode)
        shown = [m.name for m in bpy.data.materials if m.node_tree and m.node_tree.user_of_id(image)]
        return f"{image.name} is on {', '.join(shown)}"

    Job(folder, ["generate", *(f"--{name}={value}" for name, value in flags.items())], finish)


def collect(given, folder):
    """Add to Dataset: write the selected objects, as one mesh, with caption and licence into the folder"""
    objects, images = export(folder / "mesh.glb")
    name = re.sub(r'[\\/:*?"<>|\x00-\x1f]|^\.', "_", objects[0].name)
    if not any(images.values()):
        raise Refused(f"{name}: no material has an image as its base colour, so there is no texture to collect")
    path = Path(bpy.path.abspath(given.dataset), f"{name}.glb")
    path.parent.mkdir(parents=True, exist_ok=True)
    while path.exists() and path.read_bytes() != (folder / "mesh.glb").read_bytes():
        path = path.with_stem(f"{path.stem}+")
    shutil.move(folder / "mesh.glb", path)
    with (path.parent / "captions.jsonl").open("a", encoding="utf-8") as captions:
        credit = {"mesh": path.name, "text": given.caption, "license": given.license}
        captions.write(json.dumps({key: text for key, text in credit.items() if text}, ensure_ascii=False) + "\n")
    Job.said = f"wrote {path}"


def prepare(given, folder):
    """Prepare: make a dataset of the folder's meshes, and open the page that shows all its textures"""
    source = Path(bpy.path.abspath(given.dataset)).absolute()
    page = source.with_name(f"{source.name}-prepared") / "audit.html"
    words = ["prepare", str(source), f"--output={page.parent}"]
    Job(folder, words, lambda lines: (webbrowser.open(page.as_uri()), lines[-1])[1])


def stop(given, folder):
    """Stop: end texdiff; a second time at once"""
    Job.now.child.kill() if Job.now.stopped else Job.now.child.terminate()
    Job.now.stopped = True


def operator(start):
    """The operator that calls `start` with the settings and a temporary folder, which goes unless a job has it."""

    def execute(self, context):
        folder, mode = Path(tempfile.mkdtemp(prefix="texdiff-")), change_mode("OBJECT")
        try:
            start(context.scene.texdiff, folder)
        except (AttributeError, OSError, Refused) as error:
            self.report({"ERROR"}, " ".join(str(error).split()))
        finally:
            change_mode(mode)
            if Job.now is None or Job.now.folder != folder:
                shutil.rmtree(folder, ignore_errors=True)
        return {"FINISHED"}

    free = classmethod(lambda cls, context: (Job.now is None) == (start is not stop))
    label, description = start.__doc__.split(": ")
    names = {"bl_idname": f"texdiff.{start.__name__}", "bl_label": label, "bl_description": description}
    return type(f"TEXDIFF_OT_{start.__name__}", (bpy.types.Operator,), names | {"execute": execute, "poll": free})


class Settings(bpy.types.PropertyGroup):
    python: StringProperty(name="Python", description="The one that has texdiff", subtype="FILE_PATH", default=PYTHON)
    model: StringProperty(name="Base", description="A pipeline's folder, hub id or .safetensors, or nano", default=BASE)
    lora: StringProperty(name="LoRA", description="A run's folder or a .safetensors file", subtype="FILE_PATH")
    prompt: StringProperty(name="Prompt", description="What to draw")
    negative_prompt: StringProperty(name="Negative", description="What to stay away from")
    seed: IntProperty(name="Seed", min=0)
    size: IntProperty(name="Size", description="Side in pixels; 0 is the base's own size", min=0)
    use_layout: BoolProperty(name="Layout", description="Draw under a layout net, which hears the mesh", default=True)
    layout: StringProperty(name="Net", description="Empty: the one of the LoRA, if it has one", subtype="FILE_PATH")
    restyle: BoolProperty(name="Restyle", description="Start from the present texture")
    strength: FloatProperty(name="Strength", description="How much of it changes", default=0.6, min=0.01, max=1)
    dataset: StringProperty(name="Folder", subtype="DIR_PATH", default=str(Path.home() / "texdiff-meshes"))
    caption: StringProperty(name="Caption", description="What it is; empty: the object's name")
    license: StringProperty(name="Licence", description="Such as CC0-1.0")


class TEXDIFF_PT_panel(bpy.types.Panel):
    bl_label, bl_space_type, bl_region_type, bl_category = "texdiff", "VIEW_3D", "UI", "texdiff"

    def draw(self, context):
        layout, given = self.layout, context.scene.texdiff
        layout.use_property_split, layout.use_property_decorate = True, False
        names = list(Settings.__annotations__)
        for name in names[:-3]:
            layout.prop(given, name)
        layout.operator("texdiff.draw", icon="TEXTURE")
        layout.operator("texdiff.stop", icon="X")
        said = f"Working: {Job.now.progress} %" if Job.now else Job.said
        for line in textwrap.wrap(said, max(20, context.region.width // 9)):
            layout.label(text=line)
        layout.separator()
        for name in names[-3:]:
            layout.prop(given, name)
        layout.operator("texdiff.collect", icon="ADD")
        layout.operator("texdiff.prepare", icon="FILE_REFRESH")


OPERATORS = [operator(start) for start in (draw, stop, collect, prepare)]
register_classes, unregister_classes = bpy.utils.register_classes_factory([Settings, TEXDIFF_PT_panel, *OPERATORS])


def register():
    register_classes()
    bpy.types.Scene.texdiff = PointerProperty(type=Settings)
    bpy.app.handlers.load_pre.append(end_job)


def unregister():
    end_job()
    bpy.app.handlers.load_pre.remove(end_job)
    del bpy.types.Scene.texdiff
    unregister_classes()
