/**
 * What was measured on a model for adapters to begin from.
 *
 * @module
 */
import { ShapeError, ValueError } from "../errors.ts";
import type { Site } from "../model/site.ts";
import { show } from "../options.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Where adapters begin whose initialization depends on data: an immutable value that belongs to no
 * adapter, so that any number of them can begin there.
 */
export interface Calibration {
  /** The initialization that it is for, such as `"corda"`; `"initial"` for any. */
  readonly init: string;
  /** What was found for each module, by module path and name. */
  readonly sites: ReadonlyMap<string, Readonly<Record<string, Tensor>>>;
}

/** What an initialization needs of a calibration. */
export interface CalibrationNeed {
  /** Its name. */
  readonly init: string;
  /** The function that measures it. */
  readonly by: string;
  /** What it begins with. */
  readonly of: string;
  /** Shapes of the parts for a site. */
  shapes(site: Site, r: number): Readonly<Record<string, readonly number[]>>;
  /** Shapes of the parts of a calibration that is for any initialization. */
  initial(site: Site, r: number): Readonly<Record<string, readonly number[]>>;
}

/**
 * Refuses to make an adapter without its calibration, or with one that does not fit it.
 *
 * @param need What the adapter's initialization needs.
 * @param sites The sites that begin with it, with the ranks there.
 * @param options What the caller gave, and whether the adapter is being loaded.
 * @throws {ValueError} where it is missing, is for something else or lacks a module.
 * @throws {ShapeError} where it was made for another rank or another model.
 */
export function checkCalibration(
  need: CalibrationNeed,
  sites: Iterable<{ readonly site: Site; readonly r: number }>,
  options: { readonly calibration?: Calibration; readonly loaded: boolean },
): void {
  const { init, by } = need, { calibration, loaded } = options;
  if (calibration === undefined) throw missing(need, loaded);
  const isInitial = calibration?.init === "initial";
  if (!(isInitial || calibration?.init === init) || !(calibration.sites instanceof Map)) {
    throw new ValueError(
      "CALIBRATION",
      `The calibration of an adapter with initLoraWeights "${init}" is what ${by} gives; found ${
        calibration?.init ? `one for ${JSON.stringify(calibration.init)}` : show(calibration)
      }. Was its promise not awaited?`,
    );
  }
  const again =
    `Give ${by} the same model and the same config, ranks included, as getPeftModel or loadAdapter.`;
  for (const { site, r } of sites) {
    const parts = calibration.sites.get(site.path);
    if (!parts) {
      throw new ValueError(
        "CALIBRATION_SITE",
        `The calibration has nothing for ${site.path}; it was made for ${
          [...calibration.sites.keys()].join(", ") || "no module"
        }. ${again}`,
        { path: site.path },
      );
    }
    const shapes = isInitial ? need.initial(site, r) : need.shapes(site, r);
    for (const [part, shape] of Object.entries(shapes)) {
      const found = parts[part]?.shape;
      if (found?.join() === shape.join()) continue;
      throw new ShapeError(
        "CALIBRATION_SHAPE",
        `${part} of ${site.path} ${
          found ? `has shape [${found}]` : "is missing"
        } in the calibration, and shape [${shape}] is needed. ${again}`,
        { path: site.path, expected: shape, found },
      );
    }
  }
}

function missing({ init, by, of }: CalibrationNeed, loaded: boolean): ValueError {
  return new ValueError(
    "CALIBRATION_MISSING",
    loaded
      ? `The adapter began with initLoraWeights "${init}": it took a part of the weights over, and which part, ` +
        `its files do not say. Pass it as { calibration }: what ${by} gave in training (loadCalibration reads ` +
        "it from its file), or initialCalibration of the adapter as it was saved before training. " +
        "An adapter that is saved with pathInitialModelForWeightConversion needs none."
      : `initLoraWeights "${init}" begins with ${of}, and no calibration was given. Call ` +
        `${by}(base, config, { batches }) first and pass what it gives as { calibration }.`,
  );
}
