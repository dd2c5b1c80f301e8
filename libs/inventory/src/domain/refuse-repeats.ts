import { CleaveError } from '#contracts';

/** A batch that names a product twice is ambiguous. */
export const refuseRepeats = (productIds: readonly string[], list: string): void => {
  const seen = new Set<string>();
  const faults = productIds.flatMap((id, index) =>
    seen.size === seen.add(id).size ? [{ path: `${list}.${index}.product_id`, message: `repeats product ${id}` }] : [],
  );
  if (faults.length > 0)
    throw new CleaveError('invalid-request', 'A batch may contain each product only once.', { faults });
};
