// picture.mjs CHROMIUM PAGE.html OUT.png [WIDTH HEIGHT light|dark]: the top of a page, for the README. NODE_PATH as in the tests.
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';

const { chromium } = createRequire(join(resolve(process.env.NODE_PATH), 'any.js'))('playwright-core');
const [executablePath, file, out, width = '1200', height = '1000', colorScheme = 'light'] = process.argv.slice(2);
const browser = await chromium.launch({ executablePath, args: ['--headless', '--no-sandbox', '--disable-gpu'] });
const page = await browser.newPage({ viewport: { width: Number(width), height: Number(height) }, colorScheme });
await page.goto(pathToFileURL(resolve(file)).href);
await page.waitForSelector('html[data-ready]');
await page.waitForTimeout(300);
await page.screenshot({ path: out });
await browser.close();
