/**
 * Kernels that the device writes itself (elementwise, reductions, layout), in the form of those that operations bring along.
 *
 * @module
 */
import {
  writeConcat,
  writeElementwise,
  writeReduce,
  type WrittenKernel,
} from "../../lib/device/webgpu/write-kernel.ts";
import type { Kernel, KernelFeatures } from "../../kernels/kernel.ts";
import { operationOf } from "../../lib/ops/mod.ts";
import type { Value } from "../../lib/ops/value.ts";
import { fuse, type FusedProgram } from "../../lib/program/fuse.ts";
import type { Group } from "../../lib/program/groups.ts";
import { lower } from "../../lib/program/lower.ts";
import { programOf } from "../../lib/program/program.ts";

/** A kernel and the values that its bindings are numbered by. */
export interface BenchKernel {
  /** The kernel. */
  readonly kernel: Kernel;
  /** What it reads. */
  readonly inputs: readonly Value[];
}

/** The kernel of an operation on inputs, or of what a value and all before it fuse to. */
export function kernelOf(node: Value, features: KernelFeatures): BenchKernel {
  const rule = operationOf(node).kernel;
  if (rule?.kind === "kernel") {
    return { kernel: rule.variants(node, features)[0], inputs: node.inputs };
  }
  const fused = fuse(lower(programOf({ y: node })));
  if (fused.groups.length !== 1) {
    throw new TypeError(`The benchmark of ${node.op} needs ${fused.groups.length} kernels, not 1.`);
  }
  const [group] = fused.groups;
  const written = write(fused, group, features);
  const inputs: Value[] = [];
  const dispatches = written.dispatches.map((d) => ({
    ...d,
    bindings: d.bindings.map((b) => {
      if (b.kind === "temporary") return { temporary: b.index };
      if (b.value === group.outputs[0]) return "output" as const;
      const { root } = fused.views.get(b.value)!;
      if (!inputs.includes(root)) inputs.push(root);
      return inputs.indexOf(root);
    }),
  }));
  const { temporaries } = written;
  return { kernel: { variant: group.kind, dispatches, temporaries }, inputs };
}

function write(fused: FusedProgram, group: Group, features: KernelFeatures): WrittenKernel {
  if (group.kind === "reduce") return writeReduce(fused, group, features);
  if (group.kind === "concat") return writeConcat(group);
  return writeElementwise(fused, group, { inPlace: new Map(), software: features.software });
}
