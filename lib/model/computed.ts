/**
 * Tensors that a device computes of others.
 *
 * @module
 */
import type { Device } from "../device/device.ts";
import type { Value } from "../ops/value.ts";
import { programOf } from "../program/program.ts";
import { once, weakly } from "../tensor/computed.ts";
import type { Tensor } from "../tensor/tensor.ts";

/**
 * Values of a graph as tensors, computed when they are read and kept as long as somebody holds them.
 *
 * @param device Where.
 * @param outputs The values by name, all in f32.
 * @param inputs Tensors for the inputs of the graph, by name.
 */
export function computedOn<O extends { readonly [name: string]: Value }>(
  device: Device,
  outputs: O,
  inputs: Readonly<Record<string, Tensor>>,
): { readonly [K in keyof O]: Tensor } {
  const executable = once(() => device.compile(programOf(outputs)));
  const computed = Object.entries(outputs).map(([name, { shape }]): [string, Tensor] => [
    name,
    {
      dtype: "f32",
      shape,
      where: "device",
      data: weakly(async () => {
        const { run } = await executable();
        return await (await run(inputs, { read: [name] }))[name].data();
      }),
    },
  ]);
  return Object.fromEntries(computed) as { readonly [K in keyof O]: Tensor };
}
