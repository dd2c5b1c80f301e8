import { z } from 'zod';

const quantity = z.int().min(1);

export const placeOrder = z.union([
  z.object({
    customer_id: z.string().min(1),
    lines: z
      .array(z.object({ product_id: z.string().min(1), quantity, unit_price_minor: z.int().min(0).optional() }))
      .min(1),
  }),
  z
    .object({ customer_id: z.string().min(1), product_id: z.string().min(1), quantity })
    .transform(({ customer_id, ...line }) => ({ customer_id, lines: [{ ...line, unit_price_minor: undefined }] })),
]);
export type PlaceOrder = z.output<typeof placeOrder>;

export const putProducts = z.object({
  products: z.array(
    z.object({ product_id: z.string(), name: z.string(), unit_price_minor: z.int(), currency: z.string() }),
  ),
});

export const putStock = z.object({ stock: z.array(z.object({ product_id: z.string(), on_hand: z.int() })) });
