import { processLog } from '#telemetry';

/** Tells a person what there is and what to try first. */
export const welcome = (url: string, demo: boolean): void => {
  if (!processLog.isForPeople) return;
  const product = demo ? 'demo-mug' : 'mug';
  const order = JSON.stringify({ customer_id: 'c-1', product_id: product, quantity: 1 });
  const first = demo
    ? []
    : [
        `  curl -X PUT ${url}/products/mug -H 'content-type: application/json' -d '{"name":"Mug","unit_price_minor":850,"currency":"GBP"}'`,
        `  curl -X PUT ${url}/stock/mug -H 'content-type: application/json' -d '{"on_hand":10}'`,
      ];
  const lines = [
    '',
    `Cleave is ready.`,
    `  REST        ${url}`,
    `  Swagger UI  ${url}/docs`,
    `  Health      ${url}/health/ready`,
    '',
    'Place an order:',
    ...first,
    `  curl -i ${url}/orders -H 'content-type: application/json' -d '${order}'`,
    '',
    'Ctrl-C stops it.',
    '',
  ];
  process.stdout.write(`${lines.join('\n')}\n`);
};
