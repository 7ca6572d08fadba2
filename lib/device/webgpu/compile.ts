/**
 * From a program to the commands that run it.
 *
 * @module
 */
import { DeviceError } from "../../errors.ts";
import { operationOf } from "../../ops/mod.ts";
import { bytesOf, showSpec } from "../../ops/shapes.ts";
import type { Value } from "../../ops/value.ts";
import { fuse, type FusedProgram } from "../../program/fuse.ts";
import type { Group } from "../../program/groups.ts";
import { lower } from "../../program/lower.ts";
import { isLeading, type Location, type Plan, plan } from "../../program/plan.ts";
import type { Program } from "../../program/program.ts";
import { splitLarge } from "../../program/split.ts";
import { sizeOf, type TypedArray } from "../../tensor/dtype.ts";
import { castTensor } from "../../tensor/convert.ts";
import { tensor } from "../../tensor/tensor.ts";
import { encode } from "./bytes.ts";
import type { Core } from "./core.ts";
import type { Pipeline } from "./pipelines.ts";
import {
  type Binding,
  groupName,
  writeConcat,
  writeElementwise,
  writeOwn,
  writeReduce,
  type WrittenKernel,
} from "./write-kernel.ts";

/** What of a device compiling takes. */
export type Compiler = Pick<
  Core,
  "gpu" | "features" | "pipelines" | "tuner" | "maxBinding" | "alignment"
>;

/** What is done in a run, in order. */
export type Command =
  | {
    readonly kind: "dispatch";
    /** The kernel's name, for profiles. */
    readonly name: string;
    /** Floating-point operations of the node that the kernel is built around. */
    readonly flops: number;
    readonly pipeline: Pipeline;
    readonly bindings: readonly Location[];
    /** Where its sizes lie in those of the program. */
    readonly sizes: SizeRange | null;
    readonly workgroups: readonly [number, number, number];
  }
  | {
    readonly kind: "copy";
    readonly from: Location;
    readonly to: Location;
    readonly bytes: number;
  };

/** A range of a program's sizes, in bytes. */
export interface SizeRange {
  readonly offset: number;
  readonly bytes: number;
}

/** A program that is ready to run, but for its buffers. */
export interface Blueprint {
  /** The program after lowering; its inputs and outputs have the names of the original. */
  readonly program: Program;
  /** The commands of a run. */
  readonly commands: readonly Command[];
  /** Bytes of each scratch buffer. */
  readonly scratch: readonly number[];
  /** Contents of the uniform buffer that all dispatches read their sizes from. */
  readonly sizes: Uint8Array<ArrayBuffer>;
  /** Contents of each constant buffer. */
  readonly constants: readonly Uint8Array<ArrayBuffer>[];
  /** Where a value lies that has a buffer. */
  readonly locate: (value: Value) => Location;
}

/**
 * Compiles a program for a device.
 *
 * @throws {DeviceError} naming the operation, where a kernel does not compile or needs more than the adapter has.
 */
export async function compileProgram(core: Compiler, program: Program): Promise<Blueprint> {
  const { alignment } = core;
  const lowered = splitLarge(lower(program), { maxBytes: core.maxBinding, alignment });
  const { maxStorageBuffersPerShaderStage: storageBuffers } = core.gpu.limits;
  const fused = fuse(lowered, { storageBuffers, alignment });

  const kernels = new Map<Group, WrittenKernel>();
  for (const group of fused.groups) {
    const kernel = await writeGroup(core, fused, group);
    if (kernel) kernels.set(group, kernel);
  }
  const planned = plan(fused, {
    alignment,
    temporaries: (group) => kernels.get(group)?.temporaries ?? [],
  });
  const sizes = createSizeTable(core.gpu.limits.minUniformBufferOffsetAlignment);
  const commands: Promise<Command[]>[] = planned.steps.map(async (step) => {
    if (step.kind === "copy") return [step];
    const { group } = step;
    const kernel = kernels.get(group) ?? writeElementwise(fused, group, {
      inPlace: step.inPlace,
      software: core.features.software,
    });
    return await Promise.all(kernel.dispatches.map(async (d): Promise<Command> => ({
      kind: "dispatch",
      name: kernel.name,
      flops: group.node ? operationOf(group.node).flops(group.node) / kernel.dispatches.length : 0,
      pipeline: await core.pipelines.get(d, {
        bindings: d.bindings.length,
        what: `The kernel of ${kernel.name}`,
      }),
      bindings: d.bindings.map((b) => bind(core, fused, planned, b, { step, kernel })),
      sizes: sizes.add(d.sizes.words()),
      workgroups: d.workgroups,
    })));
  });
  return {
    program: lowered,
    commands: (await Promise.all(commands)).flat(),
    sizes: sizes.contents(),
    scratch: planned.scratch,
    constants: await Promise.all(fused.constants.map(constantBytes)),
    locate: planned.locate,
  };
}

/** Sizes one after the other, each at an aligned place and equal ones only once. */
function createSizeTable(alignment: number): {
  add(words: Uint32Array<ArrayBuffer>): SizeRange | null;
  contents(): Uint8Array<ArrayBuffer>;
} {
  const ranges = new Map<string, SizeRange>();
  const parts: Uint32Array<ArrayBuffer>[] = [];
  let length = 0;
  return {
    add(words) {
      if (words.length === 0) return null;
      const key = words.join();
      let range = ranges.get(key);
      if (!range) {
        ranges.set(key, range = { offset: length, bytes: words.byteLength });
        parts.push(words);
        length += Math.ceil(words.byteLength / alignment) * alignment;
      }
      return range;
    },
    contents() {
      const all = new Uint8Array(length);
      let at = 0;
      for (const words of parts) {
        all.set(new Uint8Array(words.buffer), at);
        at += Math.ceil(words.byteLength / alignment) * alignment;
      }
      return all;
    },
  };
}

/** The kernels of a group; none for elementwise ones, which depend on the plan. */
async function writeGroup(
  core: Compiler,
  fused: FusedProgram,
  group: Group,
): Promise<WrittenKernel | null> {
  switch (group.kind) {
    case "elementwise":
      return null;
    case "reduce":
      return writeReduce(fused, group, core.features);
    case "concat":
      return isLeading(group.node!) ? null : writeConcat(group);
    case "kernel": {
      const rule = operationOf(group.node!).kernel;
      if (rule?.kind !== "kernel") throw new TypeError(`${group.node!.op} has no kernel.`);
      const variants = rule.variants(group.node!, core.features);
      return writeOwn(fused, group, await core.tuner.choose(group.node!, variants));
    }
  }
}

function bind(
  core: Compiler,
  fused: FusedProgram,
  planned: Plan,
  binding: Binding,
  { step, kernel }: {
    readonly step: Extract<Plan["steps"][number], { kind: "group" }>;
    readonly kernel: WrittenKernel;
  },
): Location {
  const limit = core.maxBinding;
  const location = binding.kind === "temporary"
    ? step.temporaries[binding.index]
    : planned.locate(binding.value);
  if (location.bytes > limit) {
    const what = binding.kind === "temporary" ? "a temporary" : showSpec(binding.value);
    throw new DeviceError(
      "BINDING_SIZE",
      `${kernel.name} binds ${what} of ${location.bytes} bytes, but this adapter binds ${limit} at most, and ${
        groupName(step.group)
      } cannot be split. Use a smaller batch, or the CPU device.`,
      { bytes: location.bytes, limit },
    );
  }
  if (binding.kind === "temporary" || !binding.open) return location;
  // Another view that begins at the same place may be longer.
  const { root, offset } = fused.views.get(binding.value)!;
  return { ...location, bytes: Math.min(bytesOf(root) - offset, Math.floor(limit / 16) * 16) };
}

async function constantBytes(node: Value): Promise<Uint8Array<ArrayBuffer>> {
  const { value } = node.attributes;
  const numbers = typeof value === "number"
    ? new Float64Array(sizeOf(node.shape)).fill(value)
    : Float64Array.from(value as readonly number[]);
  const wide = tensor(numbers as TypedArray, { shape: node.shape, dtype: "f64" });
  return await encode(castTensor(wide, node.dtype), node.dtype);
}
