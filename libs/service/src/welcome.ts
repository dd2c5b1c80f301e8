import { processLog } from '#telemetry';

/** Shows a person the addresses of the service and what to try first. */
export const welcome = (url: string, demo: boolean, isGuarded: boolean): void => {
  if (!processLog.isForPeople) return;
  const product = demo ? 'demo-mug' : 'mug';
  const order = JSON.stringify({ customer_id: 'c-1', product_id: product, quantity: 1 });
  const sent = isGuarded ? `-H "authorization: Bearer $KEY" ` : '';
  const first = demo
    ? []
    : [
        `  curl -X PUT ${url}/products/mug ${sent}-H 'content-type: application/json' -d '{"name":"Mug","unit_price_minor":850,"currency":"GBP"}'`,
        `  curl -X PUT ${url}/stock/mug ${sent}-H 'content-type: application/json' -d '{"on_hand":10}'`,
      ];
  const wanted = JSON.stringify({
    name: 'trial',
    scopes: ['orders:write', 'orders:read', 'products:write', 'stock:write'],
  });
  const key = [
    'Create a key, and set KEY to the `key` of the response:',
    `  curl ${url}/keys -H "authorization: Bearer $ADMIN_KEY" -H 'content-type: application/json' -d '${wanted}'`,
    '',
  ];
  const lines = [
    '',
    `Cleave is ready.`,
    `  REST        ${url}`,
    `  Swagger UI  ${url}/docs`,
    `  Health      ${url}/health/ready`,
    '',
    ...(isGuarded ? key : []),
    'Place an order:',
    ...first,
    `  curl -i ${url}/orders ${sent}-H 'content-type: application/json' -d '${order}'`,
    '',
    'Ctrl-C stops it.',
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
};
