/**
 * Runs a compiled program: buffers, bind groups and the encoding of commands.
 *
 * @module
 */
import { DeviceError, GraftError, ShapeError, ValueError } from "../../errors.ts";
import type { Role } from "../../ops/input.ts";
import { bytesOf, exactBytes, sameShape, showSpec } from "../../ops/shapes.ts";
import type { Value } from "../../ops/value.ts";
import type { Place } from "../../program/plan.ts";
import type { Program } from "../../program/program.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { SIZES_BINDING } from "../../../kernels/sizes.ts";
import type { Executable, State } from "../device.ts";
import { decode, encode } from "./bytes.ts";
import type { Blueprint, Command } from "./compile.ts";
import type { Core } from "./core.ts";
import type { DeviceBuffer } from "./memory.ts";
import { GpuState } from "./state.ts";
import type { Wanted } from "./weights.ts";

/** What a run is given beside the inputs. */
export type RunOptions = Parameters<Executable["run"]>[1];

/** An executable whose buffers can be given up and come back. */
export interface GpuExecutable extends Executable {
  /** Runs the program; profiles encode its commands in their own way. */
  run(
    inputs: Readonly<Record<string, Tensor>>,
    options?: RunOptions,
    encodeCommands?: EncodeCommands,
  ): Promise<Readonly<Record<string, Tensor>>>;
  /** Gives up its buffers; the next run makes them again. */
  release(): void;
}

/** Writes all commands to an encoder. */
export type EncodeCommands = (
  encoder: GPUCommandEncoder,
  commands: readonly Command[],
  bound: { readonly groups: readonly GPUBindGroup[]; readonly buffer: BufferOf },
) => void;

interface Slot {
  readonly buffer: DeviceBuffer;
  /** The tensor whose contents it holds. */
  last: WeakRef<Tensor> | null;
}

/** The bind groups for one choice of weights and state. */
interface BindSet {
  /** Buffer numbers, in the order of `externals`. */
  readonly signature: readonly number[];
  /** One per dispatch. */
  readonly groups: readonly GPUBindGroup[];
}

interface Resources {
  readonly scratch: readonly DeviceBuffer[];
  readonly constants: readonly DeviceBuffer[];
  readonly sizes: DeviceBuffer | null;
  readonly slots: ReadonlyMap<string, Slot>;
  /** The last used comes first. */
  sets: readonly BindSet[];
}

/** Choices of weights and state whose bind groups are kept. */
const SETS = 8;

/** Makes an executable of a compiled program. */
export function createExecutable(
  core: Core,
  program: Program,
  blueprint: Blueprint,
): GpuExecutable {
  const { commands } = blueprint;
  const inputs = [...blueprint.program.inputs];
  const roleOf = (v: Value) => v.attributes.role as Role;
  const weights = inputs.filter(([, v]) => roleOf(v) === "weight");
  const data = inputs.filter(([, v]) => roleOf(v) === "data");
  const states = inputs.filter(([, v]) => roleOf(v) === "state");
  const external = [...weights, ...states].map(([name]) => name);
  const externalNumber = new Map(external.map((name, i) => [name, i]));
  const dispatches = commands.filter((c) => c.kind === "dispatch");
  /** For each dispatch, the numbers of the externals that it binds. */
  const bindsExternals = dispatches.map((d) =>
    d.bindings.flatMap(({ place }) => {
      const n = place.kind === "input" ? externalNumber.get(place.name) : undefined;
      return n === undefined ? [] : [n];
    })
  );
  const byDefault = [...program.outputs.keys()].filter((name) =>
    ![...program.updates.values()].includes(name)
  );
  let resources: Resources | null = null;

  for (const name of program.updates.keys()) {
    const node = program.inputs.get(name)!;
    if (roleOf(node) !== "state") {
      throw new ValueError(
        "UPDATE_ROLE",
        `The program updates its input "${name}", whose role is ${
          roleOf(node)
        }; only state is updated.`,
      );
    }
  }

  function acquire(): Resources {
    const made: DeviceBuffer[] = [];
    const create = (bytes: number, what: string, use?: "uniform") => {
      const buffer = core.memory.create(bytes, { what, use });
      made.push(buffer);
      return buffer;
    };
    try {
      const constants = blueprint.constants.map((bytes) => {
        const buffer = create(bytes.byteLength, "A constant");
        core.write(buffer, bytes);
        return buffer;
      });
      const slots = new Map<string, Slot>(data.map(([name, v]) => {
        return [name, { buffer: create(bytesOf(v), `The input "${name}"`), last: null }];
      }));
      const { byteLength } = blueprint.sizes;
      const sizes = byteLength ? create(byteLength, "The sizes of a program", "uniform") : null;
      if (sizes) core.write(sizes, blueprint.sizes);
      const scratch = core.scratch.acquire(blueprint.scratch);
      return { scratch, constants, sizes, slots, sets: [] };
    } catch (error) {
      for (const b of made) b.destroy();
      throw error;
    }
  }

  function release(): void {
    if (!resources) return;
    core.scratch.release(resources.scratch);
    for (const b of resources.constants) b.destroy();
    resources.sizes?.destroy();
    for (const s of resources.slots.values()) s.buffer.destroy();
    resources = null;
  }

  function checkInput(name: string, node: Value, given: Tensor | undefined): Tensor {
    if (!given) {
      throw new ValueError(
        "INPUT_MISSING",
        `The program needs the input "${name}" (${showSpec(node)}), which was not given.`,
      );
    }
    if (!sameShape(given.shape, node.shape)) {
      throw new ShapeError(
        "INPUT_SHAPE",
        `The input "${name}" is ${
          showSpec(node)
        }, but a tensor of shape [${given.shape}] was given.`,
      );
    }
    return given;
  }

  function checkState(state: State | undefined): GpuState | null {
    if (states.length === 0) return null;
    if (!(state instanceof GpuState) || state.host !== core) {
      throw new ValueError(
        "STATE_MISSING",
        `The program needs state (${
          states.map(([n]) => n).join(", ")
        }) made by createState of the device that runs it.`,
      );
    }
    for (const [name, node] of states) {
      const spec = state.specs[name];
      if (!spec || spec.dtype !== node.dtype || !sameShape(spec.shape, node.shape)) {
        throw new ShapeError(
          "STATE_SHAPE",
          `The program needs the state "${name}" as ${showSpec(node)}; the given state has ${
            spec ? showSpec(spec) : "no such entry"
          }.`,
        );
      }
    }
    return state;
  }

  /** The bind groups for these buffers: known ones, or new ones where another buffer is bound than before. */
  function bindSet(held: Resources, buffers: readonly DeviceBuffer[], of: BufferOf): BindSet {
    const signature = buffers.map((b) => b.id);
    const same = (set: BindSet) => set.signature.every((id, i) => id === signature[i]);
    const [latest] = held.sets;
    if (latest && same(latest)) return latest;
    let set = held.sets.find(same);
    if (!set) {
      set = {
        signature,
        groups: dispatches.map((d, i) =>
          latest && bindsExternals[i].every((n) => latest.signature[n] === signature[n])
            ? latest.groups[i]
            : makeBindGroup(d, held.sizes, of)
        ),
      };
    }
    held.sets = [set, ...held.sets.filter((s) => s !== set)].slice(0, SETS);
    return set;
  }

  function makeBindGroup(
    dispatch: Extract<Command, { kind: "dispatch" }>,
    sizes: DeviceBuffer | null,
    of: BufferOf,
  ): GPUBindGroup {
    core.memory.counts.bindGroups++;
    const entries = dispatch.bindings.map(({ place, offset, bytes }, binding) => ({
      binding,
      resource: { buffer: of(place), offset, size: bytes },
    }));
    if (dispatch.sizes) {
      const { offset, bytes } = dispatch.sizes;
      entries.push({
        binding: SIZES_BINDING,
        resource: { buffer: sizes!.gpu, offset, size: bytes },
      });
    }
    return core.gpu.createBindGroup({ layout: dispatch.pipeline.layout, entries });
  }

  async function run(
    given: Readonly<Record<string, Tensor>>,
    options: RunOptions = {},
    encodeCommands: EncodeCommands = encodeAll,
  ): Promise<Readonly<Record<string, Tensor>>> {
    await core.check();
    const read = options.read ?? byDefault;
    for (const name of read) {
      if (program.outputs.has(name)) continue;
      throw new ValueError(
        "OUTPUT_NAME",
        `The program has no output "${name}"; it has ${[...program.outputs.keys()].join(", ")}.`,
      );
    }
    const state = checkState(options.state);
    const wanted: Wanted[] = weights.map(([name, v]) => ({
      tensor: checkInput(name, v, given[name]),
      dtype: v.dtype,
      name,
    }));
    const fresh = data.map(([name, v]) => ({
      name,
      dtype: v.dtype,
      tensor: checkInput(name, v, given[name]),
      bytes: undefined as Uint8Array<ArrayBuffer> | undefined,
    }));
    const unpin = await core.weights.pin(wanted);
    let staging: DeviceBuffer | undefined;
    try {
      let held = await prepare(fresh);
      // Another program may have taken the buffers' place in the meantime.
      while (held !== resources) held = await prepare(fresh);
      // From here to the submit nothing waits, so that no other run comes in between.
      for (const { name, tensor, bytes } of fresh) {
        const slot = held.slots.get(name)!;
        if (slot.last?.deref() === tensor) continue;
        core.write(slot.buffer, bytes!);
        slot.last = new WeakRef(tensor);
      }
      const buffers = [
        ...wanted.map(({ tensor, dtype }) => core.weights.find(tensor, dtype)!.buffer),
        ...states.map(([name]) => state!.buffer(name)),
      ];
      const of: BufferOf = (place) => {
        switch (place.kind) {
          case "scratch":
            return held.scratch[place.index].gpu;
          case "constant":
            return held.constants[place.index].gpu;
          case "input":
            return (held.slots.get(place.name)?.buffer ??
              buffers[externalNumber.get(place.name)!]).gpu;
        }
      };
      if (core.debug) core.gpu.pushErrorScope("validation");
      const { groups } = bindSet(held, buffers, of);
      const encoder = core.gpu.createCommandEncoder();
      encodeCommands(encoder, commands, { groups, buffer: of });
      const results = read.map((name) => {
        const value = blueprint.program.outputs.get(name)!;
        return { name, value, bytes: exactBytes(value), at: 0 };
      });
      let total = 0;
      for (const r of results) {
        r.at = total;
        total += Math.ceil(r.bytes / 16) * 16;
      }
      if (total > 0) {
        staging = core.staging.take(total);
        for (const { value, bytes, at } of results) {
          const { place, offset } = blueprint.locate(value);
          encoder.copyBufferToBuffer(of(place), offset, staging.gpu, at, bytes);
        }
      }
      core.gpu.queue.submit([encoder.finish()]);
      const scope = core.debug ? core.gpu.popErrorScope() : null;
      const error = await scope;
      if (error) {
        throw new DeviceError("DEVICE_VALIDATION", `The run was refused: ${error.message}`);
      }
      if (!staging) {
        await core.throttle();
        await core.check();
        return {};
      }
      await staging.gpu.mapAsync(GPUMapMode.READ);
      const mapped = new Uint8Array(staging.gpu.getMappedRange());
      const outputs: Record<string, Tensor> = {};
      for (const { name, value, bytes, at } of results) {
        outputs[name] = decode(mapped.slice(at, at + bytes), value);
      }
      staging.gpu.unmap();
      core.staging.give(staging);
      staging = undefined;
      await core.check();
      return outputs;
    } catch (error) {
      staging?.destroy();
      if (error instanceof GraftError) throw error;
      // What went wrong on the device is known one turn later, and says more.
      await new Promise((resolve) => setTimeout(resolve));
      await core.check();
      throw new DeviceError("DEVICE_FAILED", `The run failed: ${(error as Error).message}`);
    } finally {
      unpin();
    }
  }

  /** Buffers to run with, and the bytes of those inputs that are not in their slots yet. */
  async function prepare(
    fresh: { name: string; dtype: Value["dtype"]; tensor: Tensor; bytes?: Uint8Array }[],
  ): Promise<Resources> {
    while (true) {
      if (!resources) {
        resources = acquire();
        try {
          await core.memory.check();
        } catch (error) {
          release();
          throw error;
        }
        continue;
      }
      const { slots } = resources;
      const missing = fresh.filter((f) =>
        !f.bytes && slots.get(f.name)!.last?.deref() !== f.tensor
      );
      if (missing.length === 0) return resources;
      for (const f of missing) f.bytes = await encode(f.tensor, f.dtype);
    }
  }

  return { program, run, release };
}

type BufferOf = (place: Place) => GPUBuffer;

/** Writes a copy to an encoder, outside of any pass. */
export function encodeCopy(
  encoder: GPUCommandEncoder,
  { from, to, bytes }: Extract<Command, { kind: "copy" }>,
  of: BufferOf,
): void {
  encoder.copyBufferToBuffer(of(from.place), from.offset, of(to.place), to.offset, bytes);
}

/** All dispatches in as few passes as the copies between them allow. */
const encodeAll: EncodeCommands = (encoder, commands, { groups, buffer }) => {
  let pass: GPUComputePassEncoder | null = null;
  let pipeline: GPUComputePipeline | null = null;
  let n = 0;
  for (const c of commands) {
    if (c.kind === "copy") {
      pass?.end();
      pass = pipeline = null;
      encodeCopy(encoder, c, buffer);
      continue;
    }
    pass ??= encoder.beginComputePass();
    if (pipeline !== c.pipeline.gpu) {
      pipeline = c.pipeline.gpu;
      pass.setPipeline(pipeline);
    }
    pass.setBindGroup(0, groups[n++]);
    pass.dispatchWorkgroups(...c.workgroups);
  }
  pass?.end();
};
