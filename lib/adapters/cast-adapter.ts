/**
 * `castAdapterDtype`: an adapter in another number type.
 *
 * @module
 */
import { ValueError } from "../errors.ts";
import { BOOLEAN, checkOptions, oneOf } from "../options.ts";
import { castTensor } from "../tensor/convert.ts";
import { isFloating } from "../tensor/dtype.ts";
import type { Tensor } from "../tensor/tensor.ts";
import { mapLeaves } from "./parts.ts";
import type { Adapter, PeftModel } from "./peft-model.ts";
import { adapterOf, withAdapter } from "./select.ts";

/** Number types that an adapter can be kept in. */
export type AdapterDtype = "f32" | "f16" | "bf16";

/** How to cast an adapter. */
export interface CastAdapterOptions {
  /** Which adapter; `"default"` by default. */
  readonly adapterName?: string;
  /** The type; f32 by default. */
  readonly dtype?: AdapterDtype;
  /**
   * PEFT's switch, in the place of `dtype`: `true` is f32, and `false` leaves the adapter as it is.
   */
  readonly autocastAdapterDtype?: boolean;
}

/**
 * The model with one adapter in another number type: everything that its file holds, that is its
 * leaves, saved modules, biases and token rows. What follows from the base and the config stays as
 * it is. A value is converted when it is needed, rounded to the nearest; in f16 what is above 65504
 * becomes infinite.
 *
 * Without a type 16-bit leaves become f32, as `loadAdapter` does unless it is told otherwise. In 16
 * bits an adapter takes half the memory and half the file, and its inputs are rounded to the same
 * type (see `withoutInputDtypeCasting`); the sums stay in 32 bits.
 *
 * @param model A model with adapters; it stays as it is. It is given back itself where the adapter
 * has the type already.
 * @param options Which adapter and which type.
 * @throws {ValueError} for an unknown name or type, and for `dtype` together with
 * `autocastAdapterDtype`.
 *
 * @example
 * ```ts
 * import { castAdapterDtype, getAdapterStateDict, tinyModel } from "@graft/peft";
 * import { getPeftModel, loraConfig } from "@graft/peft";
 * const base = await tinyModel();
 * using _device = base.device;
 * const model = getPeftModel(base, loraConfig({ r: 4 }));
 * const small = castAdapterDtype(model, { dtype: "bf16" });
 * const types = (m: typeof model) =>
 *   new Set([...getAdapterStateDict(m).values()].map(({ dtype }) => dtype));
 * console.log(types(model), types(small)); // Set { "f32" } Set { "bf16" }
 * ```
 */
export function castAdapterDtype(model: PeftModel, options: CastAdapterOptions = {}): PeftModel {
  checkOptions(options, {
    adapterName: null,
    dtype: oneOf(["f32", "f16", "bf16"]),
    autocastAdapterDtype: BOOLEAN,
  }, { code: "CAST_OPTION", of: "castAdapterDtype" });
  const { adapterName = "default", dtype, autocastAdapterDtype } = options;
  if (dtype !== undefined && autocastAdapterDtype !== undefined) {
    throw new ValueError(
      "CAST_OPTION",
      "castAdapterDtype got both dtype and autocastAdapterDtype. The second is PEFT's name for a " +
        'dtype of "f32" (true) or for no change (false): give one of the two.',
    );
  }
  const adapter = adapterOf(model, adapterName);
  if (autocastAdapterDtype === false) return model;
  const cast = caster(dtype ?? "f32");
  const changed = castAdapter(adapter, cast.tensor);
  return cast.changed() ? withAdapter(model, changed) : model;
}

/** Casts tensors; one that occurs several times, as what is tied does, gives one result. */
function caster(
  dtype: AdapterDtype,
): { readonly tensor: (given: Tensor) => Tensor; readonly changed: () => boolean } {
  const made = new Map<Tensor, Tensor>();
  return {
    tensor(given) {
      if (!isFloating(given.dtype) || given.dtype === dtype) return given;
      const known = made.get(given) ?? castTensor(given, dtype);
      made.set(given, known);
      return known;
    },
    changed: () => made.size > 0,
  };
}

/** Of the fixed leaves a file holds only those that have a key; others are made again on loading. */
function castAdapter(adapter: Adapter, cast: (given: Tensor) => Tensor): Adapter {
  const parts = mapLeaves(
    adapter.parts,
    (tensor, { leaf: { key, kind }, id }) =>
      kind === "fixed" && (key === null || id.startsWith("param.")) ? tensor : cast(tensor),
  );
  return { ...adapter, parts };
}
