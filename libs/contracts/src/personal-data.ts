import { z } from 'zod';
import { limits, text } from './values.js';

const part = text(limits.textLength, 1).optional();

const emailMessage = 'must be an address such as name@example.com, of at most 254 characters';
const countryMessage = 'must be an ISO 3166-1 code of two letters, such as GB';

/** How to reach the person an order is for. */
export const contact = z
  .strictObject({
    name: part,
    email: text(254, 3)
      .regex(/^[^\s@]+@[^\s@]+$/, emailMessage)
      .optional(),
    phone: part,
  })
  .refine((it) => Object.values(it).some((value) => value !== undefined), 'must have a name, an email or a phone')
  .meta({ id: 'Contact', examples: [{ name: 'Ada Byron', email: 'ada@example.com', phone: '+44 20 7946 0000' }] });

/** Where an order is shipped to. */
export const shippingAddress = z
  .strictObject({
    name: part,
    company: part,
    line1: text(limits.textLength, 1),
    line2: part,
    city: text(limits.textLength, 1),
    region: part,
    postal_code: part,
    country: z.string(countryMessage).regex(/^[A-Z]{2}$/, countryMessage),
  })
  .meta({
    id: 'ShippingAddress',
    examples: [
      { name: 'Ada Byron', line1: '12 St James’s Square', city: 'London', postal_code: 'SW1Y 4JH', country: 'GB' },
    ],
  });

/** The personal data of an order. It is stored encrypted, and is in no event, list, log or trace. */
export interface PersonalData {
  contact: z.output<typeof contact> | null;
  shipping_address: z.output<typeof shippingAddress> | null;
}

/** The members of an order that only callers who may read personal data see, if any personal data came with the order. */
export const personalMembers = {
  personal: z
    .enum(['kept', 'erased'])
    .optional()
    .meta({ description: '`erased` once the customer was erased. Left out if no personal data came with the order.' }),
  contact: contact.nullable().optional(),
  shipping_address: shippingAddress.nullable().optional(),
};
