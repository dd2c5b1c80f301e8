export { InventoryModule, inventoryDatabase, inventoryEnvironment } from './inventory.module.js';
