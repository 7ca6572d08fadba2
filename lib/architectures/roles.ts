/**
 * Modules by what they are for: what families call them is data.
 *
 * @module
 */

/**
 * Declares modules by their names, in the order of those: that in which torch constructs them. What
 * has no name is not there.
 */
export function declared<M extends Readonly<Record<string, (name: never) => unknown>>>(
  names: { readonly [R in keyof M]?: Parameters<M[R]>[0] },
  make: M,
): { readonly [R in keyof M]?: ReturnType<M[R]> } {
  const made = Object.entries(names).filter(([, name]) => name !== undefined).map(
    ([role, name]) => [role, make[role](name as never)],
  );
  return Object.fromEntries(made) as { readonly [R in keyof M]?: ReturnType<M[R]> };
}
