"""Tables as a shop has them: who did what with which article and when, as CSV, and a sentence vector an article.

    .venv/bin/python -m tests.own_data shop

Writes shop/events.csv, with ids that are words and times of several zones, and shop/items.csv, with vectors of 384
numbers. The same every time.
"""

import csv
import datetime
import json
import os
import sys

import numpy as np

FIRST, DAYS = datetime.date(2026, 11, 1), 14
CUSTOMERS, TOPICS, WIDTH = 300, 12, 384
WORDS = ("Tea", "Mug", "Kettle", "Honey", "Café", "Müsli", "Apron", "Spoon", "日本茶", "Tray", "Jar", "Bowl")
EVENTS, PAGES = ("view", "cart", "purchase"), ("shop", "search", "newsletter")
ZONES = (0, 1, -5, 5.5)  # hours from UTC


def skus() -> list[str]:
    """The articles, 25 of each topic."""
    return [f"{WORDS[topic]}-{number:02d}" for topic in range(TOPICS) for number in range(25)]


def write_items(path: str, random: np.random.Generator) -> None:
    """An article a row: its sku, and a vector near those of its topic."""
    topics = random.standard_normal((TOPICS, WIDTH))
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["sku", "embedding"])
        for number, sku in enumerate(skus()):
            vector = topics[number // 25] + 0.8 * random.standard_normal(WIDTH)
            writer.writerow([sku, json.dumps([round(float(x), 4) for x in vector / np.linalg.norm(vector)])])


def write_events(path: str, random: np.random.Generator) -> None:
    """An event a row, in no order: every customer likes two topics, and acts at hours of the own zone."""
    names, rows = skus(), []
    for customer in range(CUSTOMERS):
        zone = datetime.timezone(datetime.timedelta(hours=ZONES[customer % len(ZONES)]))
        likes = random.choice(TOPICS, 2, replace=False)
        for _ in range(random.poisson(28)):
            topic = random.choice(likes) if random.random() < 0.8 else random.integers(TOPICS)
            midnight = datetime.datetime.combine(FIRST, datetime.time(), datetime.UTC)
            moment = midnight + datetime.timedelta(seconds=int(random.integers(DAYS * 86_400)))
            event = str(random.choice(EVENTS, p=(0.7, 0.2, 0.1)))
            page = str(random.choice(PAGES, p=(0.6, 0.3, 0.1)))
            sku = names[topic * 25 + int(25 * random.random() ** 2)]
            rows.append([f"c-{customer}", sku, moment.astimezone(zone).isoformat(), event, page])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "sku", "created_at", "event", "page"])
        writer.writerows(rows[n] for n in random.permutation(len(rows)))


def write_shop(folder: str) -> None:
    """Writes both tables into a folder, which is made."""
    os.makedirs(folder, exist_ok=True)
    random = np.random.default_rng(7)
    write_items(f"{folder}/items.csv", random)
    write_events(f"{folder}/events.csv", random)


if __name__ == "__main__":
    write_shop(sys.argv[1])
