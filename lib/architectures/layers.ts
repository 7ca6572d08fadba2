/**
 * The layers of a model, one like the other.
 *
 * @module
 */

/** Declares so many layers in their order. One that is refused ends it, however many were asked for. */
export function layersOf<T>(count: number, declare: (layer: number) => T): readonly T[] {
  const layers: T[] = [];
  while (layers.length < count) layers.push(declare(layers.length));
  return layers;
}
