"""The compiler on one page: from a checked file to the text of a module.

      stage  type              made by        holds
      1      syntax.File       parser         what was written
      2      MemorySpec        check          names resolved, shapes known
      3      MemoryModel       build_model    bias, read and gradient as tensor nodes
             ModuleModel       build_module   tokens and gates: learned maps, and formulas of their results
      4      UpdateRule        update_rule    new state from old state and token
      5      ChunkForm         chunkwise_form the same update for a chunk of tokens
      6      Program           adjoint        its reverse mode
      7      KernelPlan        torch_plan …   what each kernel computes, and what passes between them
      8      RenderedModule    emit_memory …  text

Stages 1 and 2 are `miras_dsl.check.read`; this file calls the others in order.  Every stage is frozen
data; nothing in it is named after a published model or bias.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from miras_dsl.codegen.analysis.sequential_depth import (
    SequentialDepth,
    chunk_of_steps,
    sequential_depth,
)
from miras_dsl.codegen.derive.chunk import ChunkForm, chunkwise_form
from miras_dsl.codegen.derive.update import UpdateRule, update_rule
from miras_dsl.codegen.emit.identifiers import snake_case, source_ref
from miras_dsl.codegen.emit.imports import import_lines
from miras_dsl.codegen.emit.layer.composition import layer_text, model_text
from miras_dsl.codegen.emit.layer.modules import emit_module
from miras_dsl.codegen.emit.line_wrap import prose
from miras_dsl.codegen.emit.namespace import FileNames, assert_defined_once, file_names
from miras_dsl.codegen.emit.torch.memory import emit_memory
from miras_dsl.codegen.emit.triton.module import emit_kernels, table_name
from miras_dsl.codegen.model.build import build_model
from miras_dsl.codegen.model.build_module import build_module
from miras_dsl.codegen.model.module_types import ModuleModel
from miras_dsl.codegen.model.types import MemoryInput, MemoryModel, StateTensor
from miras_dsl.codegen.passes.affine_state import NotChunkable
from miras_dsl.codegen.passes.autodiff import adjoint
from miras_dsl.codegen.passes.size_limits import MOST_PARTS, TooLarge, check_size
from miras_dsl.codegen.plan.kernel_plan import KernelPlan
from miras_dsl.codegen.plan.token.legality import unsupported_reason
from miras_dsl.codegen.plan.token_kernels import token_plan
from miras_dsl.codegen.plan.torch_plan import CHUNK, plan_in_torch
from miras_dsl.diagnostics import Diagnostic, Label, SpecErrors
from miras_dsl.ir import Program
from miras_dsl.spec import FileSpec, MemorySpec

from .digest import digest_of
from .errors import DerivationError

MOST_MEMORIES = 40
"""The most memories of a file that is compiled as a whole."""
MOST_PARTS_OF_A_FILE = MOST_PARTS
PARTS_OF_EACH = 60
"""What a memory costs beside the operations that are derived for it, in parts."""


@dataclass(frozen=True, slots=True)
class CompiledMemory:
    """One memory through all stages.

    module         the layer around it
    form, reverse  the chunk program and its adjoint; None when the rule has no chunk form
    obstacle       why it has none, in words of the language
    plan           how the torch text is computed
    kernel_plan    how its token-by-token kernels are; None for a rule that has none
    kernels        whether the text has Triton kernels
    prefix    what its functions are called by: `<prefix>_memory`, `<prefix>_step`
    text      these functions and their parts
    parts     how many operations were derived
    """

    spec: MemorySpec
    model: MemoryModel
    module: ModuleModel
    rule: UpdateRule
    form: ChunkForm | None
    reverse: Program | None
    obstacle: str
    plan: KernelPlan
    kernel_plan: KernelPlan | None
    kernels: bool
    prefix: str
    text: str
    parts: int

    @property
    def inputs(self) -> tuple[MemoryInput, ...]:
        """What the layer must compute for the memory."""
        return self.rule.inputs

    @property
    def state_tensors(self) -> tuple[StateTensor, ...]:
        """What the memory carries."""
        return self.rule.state_tensors

    def depth(self, tokens: int, backward: bool = False) -> SequentialDepth:
        """How many steps over so many tokens wait for one another, forwards or backwards."""
        program = self.reverse if backward else self.form and self.form.program
        steps = tokens * self.rule.steps_per_token
        chunk = self.rule.block * self.rule.steps_per_token or chunk_of_steps(CHUNK, steps)
        return sequential_depth(program, chunk, steps)

    def sequential_depth(self, tokens: int) -> int:
        """The dependent steps of a sequence: chunks, or tokens where rows follow one another."""
        return self.depth(tokens).steps

    @property
    def family(self) -> str:
        """The class of the rule."""
        return self.form.family if self.form else "token by token"


@dataclass(frozen=True, slots=True)
class RenderedModule:
    """A generated module: its text, the digest of its meaning, and the memories stage by stage.

    names  what it calls the classes and functions of the file
    """

    text: str
    digest: str
    memories: dict[str, CompiledMemory]
    names: FileNames


def compile_memory(spec: MemorySpec, kernels: bool = False, prefix: str = "") -> CompiledMemory:
    """Stages 3 to 8 of one memory; ``kernels`` adds its Triton kernels, where a rule has them.

    prefix  what its functions begin with; without one, its own name

    Raises SpecErrors when the rule has no meaning, although it is well formed (a potential without
    a link, say), or when what is derived from it grows beyond all use.
    """
    prefix = prefix or snake_case(spec.name)
    with reporting_refusals(spec):
        return _compiled(spec, kernels, prefix)


def _compiled(spec: MemorySpec, kernels: bool, prefix: str) -> CompiledMemory:
    model, module = build_model(spec), build_module(spec)
    anchored = spec.algorithm.anchored
    check_size(
        [model.answer, *(gradient for _, gradient in model.gradients)],
        anchored.sweeps if anchored else 1,
    )
    rule = update_rule(model)
    parts = check_size(node for _, node in rule.program.results)
    form, reverse, obstacle = None, None, ""
    try:
        form = chunkwise_form(rule)
    except NotChunkable as reason:
        obstacle = str(reason)
    if form is not None:
        check_size(node for _, node in form.program.results)
        reverse = adjoint(form.program)
        parts = check_size(node for _, node in reverse.results)
    plan = plan_in_torch(rule, form, reverse, obstacle, prefix)
    kernel_plan = None if unsupported_reason(rule) else token_plan(rule, prefix)
    launched = kernels and kernel_plan is not None
    text = emit_memory(plan, prefix, table_name(prefix) if launched else "")
    if kernels and kernel_plan is not None:
        text = f"{emit_kernels(kernel_plan, prefix)}\n\n{text}"
    return CompiledMemory(
        spec,
        model,
        module,
        rule,
        form,
        reverse,
        obstacle,
        plan,
        kernel_plan,
        launched,
        prefix,
        text,
        parts,
    )


@contextmanager
def reporting_refusals(spec: MemorySpec) -> Iterator[None]:
    """Turns a refusal of the derivation into a diagnostic about the clause that it comes from.

    Python's limit of nested calls is one, too: formulas that deep are refused as too large.
    """
    try:
        try:
            yield
        except RecursionError:
            raise TooLarge("what is derived is nested too deep") from None
    except DerivationError as reason:
        clauses = {"M05": spec.retention, "M06": spec.algorithm}
        clause = clauses.get(reason.code[:3], spec)
        at = Label(clause.span, f"in {spec.name}")
        raise SpecErrors([Diagnostic(reason.code, str(reason), at, help=reason.help)]) from None


def compile_file(spec: FileSpec, kernels: bool = False) -> RenderedModule:
    """A whole file: every memory, layer and model in it.

    kernels  the text also holds token-by-token Triton kernels, which run on a CUDA device
    """
    names = file_names(spec)
    check_count(spec)
    memories: dict[str, CompiledMemory] = {}
    for name, memory in spec.memories.items():
        memories[name] = compile_memory(memory, kernels, names.prefix_of(name))
        check_file_size(memories.values())
    if not memories:
        return _rendered(spec, memories, names)
    with reporting_refusals(list(spec.memories.values())[-1]):
        return _rendered(spec, memories, names)


def check_count(spec: FileSpec) -> None:
    """Raise SpecErrors when a file has more than `MOST_MEMORIES` memories."""
    if len(spec.memories) > MOST_MEMORIES:
        first = list(spec.memories.values())[MOST_MEMORIES]
        told = f"a file with {len(spec.memories)} memories; at most {MOST_MEMORIES} are compiled together"
        at = Label(first.span, f"{first.name} is one too many")
        help = "write this memory and those that follow to a file of their own"
        raise SpecErrors([Diagnostic("M0007", told, at, help=help)])


def check_file_size(memories: Collection[CompiledMemory]) -> None:
    """Raise SpecErrors when more than `MOST_PARTS_OF_A_FILE` operations are derived from a file."""
    total = sum(made.parts + PARTS_OF_EACH for made in memories)
    if total > MOST_PARTS_OF_A_FILE and len(memories) > 1:
        last = list(memories)[-1].spec
        told = f"what is derived from this file has more than {MOST_PARTS_OF_A_FILE} parts"
        at = Label(last.span, f"{last.name} is memory {len(memories)}, and one too many")
        help = "write this memory and those that follow to a file of their own"
        raise SpecErrors([Diagnostic("M0007", told, at, help=help)])


def _rendered(
    spec: FileSpec, memories: dict[str, CompiledMemory], names: FileNames
) -> RenderedModule:
    parts = [compiled.text for compiled in memories.values()]
    for m in memories.values():
        parts.append(emit_module(m.module, m.inputs, m.state_tensors, m.model.window_inputs, names))
    parts += [layer_text(layer, names) for layer in spec.layers.values()]
    parts += [model_text(model, names) for model in spec.models.values()]
    body = "\n\n".join(part.strip("\n") + "\n" for part in parts)
    listed = ", ".join((*spec.memories, *spec.layers, *spec.models))
    spans = [part.span for part in (*spec.memories.values(), *spec.layers.values())]
    file = source_ref(spans[0]).rpartition(":")[0] if spans else ""
    source = file if file.endswith(".mem") else "a .mem text"
    title = "\n".join(line.strip() for line in prose(f"{listed}.", 3))
    said = f"Generated by miras from {source}; every line can be read and changed."
    head = f'"""{title}\n\n{said}\n"""\n\n'
    text = assert_defined_once(f"{head}{import_lines(body)}\n\n{body}")
    return RenderedModule(text, digest_of(spec), memories, names)
