/**
 * Tables and verdicts.
 *
 * @module
 */

/** Prints rows in columns: the first one to the left, the others to the right. */
export function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => [...row[i]].length)));
  for (const row of rows) {
    const cells = row.map((cell, i) => {
      const space = " ".repeat(widths[i] - [...cell].length);
      return i ? space + cell : cell + space;
    });
    console.log(cells.join("  ").trimEnd());
  }
}

/** How a ratio, larger being better, compares with what is wanted of it. */
export function verdict(ratio: number, target: number): readonly [string, string] {
  return [`${ratio.toFixed(2)} (of ${target.toFixed(1)})`, ratio >= target ? "met" : "MISSED"];
}

/** Prints a heading. */
export function printHeading(text: string): void {
  console.log(`\n${text}\n${"=".repeat([...text].length)}`);
}

/** Lines that tell what is being done, on a terminal only: they do not belong to the report. */
export function say(text: string): void {
  console.error(`  … ${text}`);
}
