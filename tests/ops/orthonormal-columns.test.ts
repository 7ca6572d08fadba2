import { assert } from "@std/assert";
import { flatMatrix, orthonormalColumns as onHost } from "../../lib/methods/linalg.ts";
import { input } from "../../lib/ops/input.ts";
import { orthonormalColumns } from "../../lib/ops/orthonormal-columns.ts";
import { createGraph } from "../../lib/ops/value.ts";
import { programOf } from "../../lib/program/program.ts";
import { randomNormal } from "../../lib/tensor/random.ts";
import { tensor } from "../../lib/tensor/tensor.ts";
import { testOnDevices } from "../devices.ts";
import { apart } from "../steps.ts";

testOnDevices("orthonormal columns are those of LAPACK, signs included", async (device) => {
  for (const [rows, columns] of [[7, 3], [4, 4], [5, 1], [1, 1]]) {
    const x = randomNormal(rows * columns, { seed: 3, stream: rows, std: 1 });
    const spec = { shape: [rows, columns], dtype: "f32" } as const;
    const q = orthonormalColumns(input(createGraph(), "x", spec));
    const executable = await device.compile(programOf({ q }));
    const found = await executable.run({ x: tensor(x, { shape: [rows, columns] }) });
    const wanted = Float32Array.from(onHost(flatMatrix(x, { rows, columns })).data);
    const difference = apart(await found.q.data() as Float32Array, wanted);
    assert(difference < 1e-5, `${rows} × ${columns}: ${difference}`);
  }
});
