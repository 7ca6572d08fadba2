import { assertEquals } from "@std/assert";
import { chosenRows, kMeans } from "../../lib/methods/k-means.ts";
import { flatMatrix } from "../../lib/methods/linalg.ts";
import { createTorchRandom } from "../../lib/methods/torch-random.ts";
import golden from "./k-means.golden.json" with { type: "json" };

for (const { rows, columns, clusters, iterations, chosen, labels } of golden) {
  Deno.test(`${clusters} clusters of ${rows} points are scikit-learn's`, () => {
    assertEquals(chosenRows(rows, clusters, 123456789), chosen);
    const points = createTorchRandom(rows).normal(rows * columns);
    const options = { clusters, iterations, seed: 123456789 };
    assertEquals([...kMeans(flatMatrix(points, { rows, columns }), options)], labels);
  });
}
