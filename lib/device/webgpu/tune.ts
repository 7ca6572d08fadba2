/**
 * Chooses between the variants of a kernel by measuring them, once per shape class and device.
 *
 * @module
 */
import { SIZES_BINDING } from "../../../kernels/sizes.ts";
import type { Kernel } from "../../../kernels/kernel.ts";
import { operationOf } from "../../ops/mod.ts";
import { bytesOf } from "../../ops/shapes.ts";
import { stringify, type Value } from "../../ops/value.ts";
import { remembered } from "../../tensor/computed.ts";
import { sizeOf } from "../../tensor/dtype.ts";
import type { DeviceBuffer, Memory } from "./memory.ts";
import type { PipelineCache } from "./pipelines.ts";
import { IDENTITY_EPILOGUE } from "./write-kernel.ts";

/** Chooses kernels. */
export interface Tuner {
  /** The variant to run a node with. */
  choose(node: Value, variants: readonly Kernel[]): Promise<Kernel>;
}

/** Floating-point operations under which the first variant is taken unmeasured. */
const WORTHWHILE = 2 ** 27;
/** Bytes of inputs and output over which nothing is measured, as memory may be short. */
const LARGEST = 2 ** 30;
/** Milliseconds that one measurement aims at. */
const TARGET = 20;
/** Workgroups of the first, short look at a kernel. */
const GLANCE = 32;

/** Takes the first variant always. */
export const UNTUNED: Tuner = { choose: (_node, variants) => Promise.resolve(variants[0]) };

/** A tuner that has measured nothing yet. */
export function createTuner(
  gpu: GPUDevice,
  parts: { readonly memory: Memory; readonly pipelines: PipelineCache },
): Tuner {
  const { memory, pipelines } = parts;
  /** Name of the best variant per shape class. */
  const best = new Map<string, Promise<string>>();
  let last: Promise<unknown> = Promise.resolve();

  async function measureAll(node: Value, variants: readonly Kernel[]): Promise<string> {
    const buffers: DeviceBuffer[] = [];
    const create = (bytes: number, use: "storage" | "uniform" = "storage") => {
      const buffer = memory.create(bytes, { what: `Measuring ${node.op}`, use });
      buffers.push(buffer);
      return buffer.gpu;
    };
    const uniform = (words: Uint32Array<ArrayBuffer>) => {
      const buffer = create(words.byteLength, "uniform");
      gpu.queue.writeBuffer(buffer, 0, words);
      return buffer;
    };
    try {
      const inputs = node.inputs.map((x) => create(bytesOf(x)));
      const output = create(bytesOf(node));
      let winner = variants[0].variant, shortest = Infinity;
      for (const kernel of variants) {
        const temporaries = (kernel.temporaries ?? []).map((bytes) => create(bytes));
        const time = await measure(kernel, { inputs, output, temporaries, uniform }, shortest);
        if (time < shortest) [winner, shortest] = [kernel.variant, time];
      }
      return winner;
    } finally {
      for (const b of buffers) b.destroy();
    }
  }

  /** Milliseconds of a kernel; infinite where the adapter refuses it, or where it is slower than `limit` early on. */
  async function measure(
    kernel: Kernel,
    io: {
      readonly inputs: readonly GPUBuffer[];
      readonly output: GPUBuffer;
      readonly temporaries: readonly GPUBuffer[];
      readonly uniform: (words: Uint32Array<ArrayBuffer>) => GPUBuffer;
    },
    limit: number,
  ): Promise<number> {
    let total = 0;
    for (const d of kernel.dispatches) {
      const source = d.epilogue ? `${d.source}\n${IDENTITY_EPILOGUE}` : d.source;
      const words = d.sizes.words();
      const pipeline = await pipelines.get({ source, sizes: d.sizes }, {
        bindings: d.bindings.length,
        what: kernel.variant,
      }).catch(() => null);
      if (!pipeline) return Infinity;
      const entries = d.bindings.map((b, binding) => ({
        binding,
        resource: {
          buffer: b === "output"
            ? io.output
            : typeof b === "number"
            ? io.inputs[b]
            : io.temporaries[b.temporary],
        },
      }));
      if (words.length) {
        entries.push({ binding: SIZES_BINDING, resource: { buffer: io.uniform(words) } });
      }
      const group = gpu.createBindGroup({ layout: pipeline.layout, entries });
      const all = sizeOf(d.workgroups);
      const time = async (count: number, repeats: number) => {
        const encoder = gpu.createCommandEncoder();
        const pass = encoder.beginComputePass();
        pass.setPipeline(pipeline.gpu);
        pass.setBindGroup(0, group);
        const part = some(d.workgroups, count);
        for (let i = 0; i < repeats; i++) pass.dispatchWorkgroups(...part);
        pass.end();
        const start = performance.now();
        gpu.queue.submit([encoder.finish()]);
        await gpu.queue.onSubmittedWorkDone();
        return (performance.now() - start) * all / sizeOf(part) / repeats;
      };
      await time(1, 1); // drivers compile at the first use
      const glance = await time(GLANCE, 1);
      if (total + glance > 4 * limit) return Infinity;
      const perGroup = glance / all;
      const count = Math.min(all, Math.max(GLANCE, Math.floor(TARGET / perGroup)));
      const repeats = Math.max(1, Math.min(50, Math.floor(TARGET / (perGroup * count))));
      total += Math.min(await time(count, repeats), await time(count, repeats));
    }
    return total;
  }

  return {
    async choose(node, variants) {
      const bytes = [node, ...node.inputs].reduce((n, v) => n + bytesOf(v), 0);
      if (
        variants.length === 1 || bytes > LARGEST || operationOf(node).flops(node) < WORTHWHILE
      ) return variants[0];
      const name = await remembered(best, classOf(node), () => {
        // One at a time, so that measurements do not disturb each other.
        const choice = last.then(() => measureAll(node, variants));
        last = choice.catch(() => {});
        return choice;
      });
      return variants.find((v) => v.variant === name) ?? variants[0];
    },
  };
}

/** Nodes of one class run best with the same variant: equal but for sizes within a factor of two. */
function classOf(node: Value): string {
  const shapes = [node, ...node.inputs].map((v) =>
    `${v.dtype}[${v.shape.map((d) => Math.round(Math.log2(d)))}]`
  );
  return `${node.op}${stringify(node.attributes)}${shapes.join()}`;
}

/** About `count` of the workgroups of a dispatch. */
function some(
  [x, y, z]: readonly [number, number, number],
  count: number,
): [number, number, number] {
  if (count <= x) return [count, 1, 1];
  if (count <= x * y) return [x, Math.floor(count / x), 1];
  return [x, y, Math.min(z, Math.floor(count / (x * y)))];
}
