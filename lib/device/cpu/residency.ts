/**
 * Weights on the host, in the form in which the CPU device reads them.
 *
 * @module
 */
import { ShapeError } from "../../errors.ts";
import { onnxTypeOf } from "../../ops/onnx-rule.ts";
import { sameShape, showSpec } from "../../ops/shapes.ts";
import type { Spec } from "../../ops/value.ts";
import { toFloat32 } from "../../tensor/convert.ts";
import { isFloating, type TypedArray } from "../../tensor/dtype.ts";
import type { Tensor } from "../../tensor/tensor.ts";
import { type Feed, feedOf, type Runtime } from "./session.ts";

/** A tensor's contents in the type that programs read. */
export interface Resident {
  readonly array: TypedArray;
  readonly feed: Feed;
}

/** Keeps converted and loaded weights for as long as their tensor is in use. */
export interface Residency {
  /** What was kept of a tensor, without a wait. */
  known(tensor: Tensor): Resident | undefined;
  /** The contents for an input of this spec; kept when `keep` is set. */
  resident(
    tensor: Tensor,
    input: { readonly name: string; readonly spec: Spec; readonly keep: boolean },
  ): Promise<Resident>;
  /** Forgets the contents of a tensor. */
  release(tensor: Tensor): void;
  /** Bytes of copies, how many there are, and how many there ever were. An array that a tensor owns itself is not a copy. */
  counts(): { readonly bytes: number; readonly buffers: number; readonly created: number };
}

interface Entry extends Resident {
  readonly copied: number;
  readonly token: object;
}

/** Opens a residency. */
export function createResidency(runtime: Runtime): Residency {
  const entries = new WeakMap<Tensor, Entry>();
  let bytes = 0, buffers = 0, created = 0;
  const forget = (copied: number) => {
    if (copied) {
      bytes -= copied;
      buffers--;
    }
  };
  const dropped = new FinalizationRegistry<number>(forget);
  return {
    known: (tensor) => entries.get(tensor),
    async resident(tensor, { name, spec, keep }) {
      const known = entries.get(tensor);
      checkInput(tensor, name, spec);
      if (known) return known;
      const array = await contentsFor(tensor, spec);
      // Another run may have loaded it in the meantime.
      const meanwhile = entries.get(tensor);
      if (meanwhile) return meanwhile;
      const own = tensor.where === "host" && array === await tensor.data();
      const resident = {
        array,
        feed: feedOf(runtime, array, { type: onnxTypeOf(spec.dtype), shape: tensor.shape }),
      };
      if (!keep) return resident;
      const entry = { ...resident, copied: own ? 0 : array.byteLength, token: {} };
      entries.set(tensor, entry);
      if (entry.copied) {
        bytes += entry.copied;
        buffers++;
        created++;
        dropped.register(tensor, entry.copied, entry.token);
      }
      return entry;
    },
    release(tensor) {
      const entry = entries.get(tensor);
      if (!entry) return;
      entries.delete(tensor);
      dropped.unregister(entry.token);
      forget(entry.copied);
    },
    counts: () => ({ bytes, buffers, created }),
  };
}

/** Whether a tensor can be the contents of a value: any float where that is computed in f32. */
export function fits(tensor: Tensor, { dtype, shape }: Spec): boolean {
  const holds = onnxTypeOf(dtype) === "f32" ? isFloating(tensor.dtype) : tensor.dtype === dtype;
  return holds && sameShape(tensor.shape, shape);
}

/** The contents of a tensor as programs read them for a value that it {@link fits}. */
export async function contentsFor(tensor: Tensor, { dtype }: Spec): Promise<TypedArray> {
  return onnxTypeOf(dtype) === "f32" ? await toFloat32(tensor) : await tensor.data();
}

/** Throws unless a tensor fits an input. */
export function checkInput(tensor: Tensor, name: string, spec: Spec): void {
  if (!fits(tensor, spec)) {
    throw new ShapeError(
      "INPUT",
      `The program's input "${name}" is ${
        showSpec(spec)
      }, but a tensor ${tensor.dtype}[${tensor.shape}] was given for it.`,
      { name, wanted: spec, given: { dtype: tensor.dtype, shape: tensor.shape } },
    );
  }
}
