import { z } from 'zod';
import { cacheEnvironment } from '#cache';
import { ConfigurationError, env, readEnvironment, type Environment, type VariableFault } from '#config';
import { gatewayEnvironment, upstreamsIn } from '#gateway';
import { inventoryEnvironment } from '#inventory';
import { listenAddress } from '#messaging';
import { orderEnvironment } from '#order';
import { paymentEnvironment } from '#payment';
import { salesEnvironment } from '#sales';
import { exposureFaults } from '#security';
import { databaseEnvironment, restEnvironment, togetherFallbacks } from '#service';
import { webhooksEnvironment } from '#webhooks';

/**
 * The environment of the monolith: that of its modules, but it starts a database of its own if none is configured. A module
 * with a `URL` runs elsewhere; with a `LISTEN`, other processes can call the modules that run here.
 */
const monolithEnvironment = {
  ...restEnvironment(3000),
  ...z.object(gatewayEnvironment).partial().shape,
  ...orderEnvironment,
  ...inventoryEnvironment,
  ...paymentEnvironment,
  ...cacheEnvironment,
  ...salesEnvironment,
  ...webhooksEnvironment,
  ...databaseEnvironment,
  ORDER_LISTEN: listenAddress.optional(),
  INVENTORY_LISTEN: listenAddress.optional(),
  PAYMENT_LISTEN: listenAddress.optional(),
  CACHE_LISTEN: listenAddress.optional(),
  DATA_DIR: env.directory('.data'),
};

/** The settings of the monolith. Other modules default to this process, and its own database gets demo products. */
export const readMonolithEnvironment = (source: Environment) => {
  const settings = readEnvironment(monolithEnvironment, source, {
    fallbacks: togetherFallbacks(source),
    defaults: {
      ORDER_AT: 'in-process:',
      INVENTORY_AT: 'in-process:',
      PAYMENT_AT: 'in-process:',
      CACHE_AT: 'in-process:',
      DEMO_PRODUCTS: source['INVENTORY_DATABASE_URL'] || source['DATABASE_URL'] ? 'false' : 'true',
    },
  });
  const exposure = {
    ...settings,
    from: 'either' as const,
    passesOn: upstreamsIn(settings).length > 0,
    grpcAt: settings.ORDER_GRPC_LISTEN,
  };
  const faults = [...asked.flatMap((module) => contradictions(module, settings)), ...exposureFaults(exposure)];
  if (faults.length > 0) throw new ConfigurationError(faults);
  return settings;
};

type Settings = z.output<z.ZodObject<typeof monolithEnvironment>>;

/** The modules that are called by messages. */
const asked = ['ORDER', 'INVENTORY', 'PAYMENT', 'CACHE'] as const;

/** A module runs either here or elsewhere, for messages, REST and gRPC alike. */
const contradictions = (module: (typeof asked)[number], settings: Settings): VariableFault[] => {
  const [at, url] = [`${module}_AT`, `${module}_URL`] as const;
  const doors = [`${module}_LISTEN` as const, ...(module === 'ORDER' ? (['ORDER_GRPC_LISTEN'] as const) : [])];
  const isNear = settings[at].scheme === 'in-process';
  if (isNear && settings[url] !== undefined) {
    return [{ variable: at, message: `is not set, but ${url} says that the module runs elsewhere; set both or none` }];
  }
  if (isNear) return [];
  const name = module.toLowerCase();
  return [
    ...(settings[url] === undefined
      ? [
          {
            variable: url,
            message: `is not set, but ${at} says that ${name} runs elsewhere; set it to http://host:port`,
          },
        ]
      : []),
    ...doors
      .filter((door) => settings[door] !== undefined)
      .map((door) => ({
        variable: door,
        message: `is of no use, because ${name} runs elsewhere (${at}); set it there and leave it out here`,
      })),
  ];
};
