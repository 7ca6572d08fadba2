/**
 * Numbers and tables for people.
 *
 * @module
 */

/** A whole number with commas: 1,234,567. */
export function count(value: number): string {
  return value.toLocaleString("en-US");
}

/** So many of something: 1 step, 1,234 steps. */
export function counted(value: number, noun: string): string {
  return `${count(value)} ${noun}${value === 1 ? "" : "s"}`;
}

/** With three digits and a prefix: 1.23 G. */
export function scaled(value: number, unit: string): string {
  const prefixes = ["", "k", "M", "G", "T", "P"];
  const at = Math.min(prefixes.length - 1, Math.max(0, Math.floor(Math.log10(value || 1) / 3)));
  const short = value / 1000 ** at;
  return `${at === 0 ? short : short.toPrecision(3)} ${prefixes[at]}${unit}`;
}

/** Bytes: 1.23 GB. */
export function bytes(value: number): string {
  return scaled(value, "B");
}

/** Rows with columns below one another; columns of numbers (`right`) end together. */
export function table(
  rows: readonly (readonly string[])[],
  options: { readonly right?: readonly number[] } = {},
): string {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => widths[i] = Math.max(widths[i] ?? 0, cell.length));
  }
  return rows.map((row) =>
    row.map((cell, i) =>
      options.right?.includes(i) ? cell.padStart(widths[i]) : cell.padEnd(widths[i])
    ).join("  ").trimEnd() + "\n"
  ).join("");
}
