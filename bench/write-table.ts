/**
 * Tables in docs/methods.md, made by benchmarks.
 *
 * @module
 */

const DOCS = new URL("../docs/methods.md", import.meta.url);

/** Prints a table; with `--write` it also takes the place of that between the marks of this name. */
export function writeTable(
  name: string,
  head: readonly string[],
  rows: readonly (readonly string[])[],
): void {
  const table = [head, head.map((_, i) => i ? "--:" : "---"), ...rows]
    .map((cells) => `| ${cells.join(" | ")} |`).join("\n");
  console.log(`\n${table}`);
  if (!Deno.args.includes("--write")) return;
  const [before, after] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const text = Deno.readTextFileSync(DOCS);
  const [first] = text.split(before), last = text.split(after)[1];
  Deno.writeTextFileSync(DOCS, `${first}${before}\n\n${table}\n\n${after}${last}`);
}
