"""The word problems' templates: what they say, and the steps that solve them.

A step reads `result = left op right`; left and right are slots, earlier results or whole numbers. The last result is
the answer. Slots not listed in `ranges` are drawn from DEFAULT_RANGE; `name`, `other` and `item` from the lists below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_NAMES = (
    "Ada Alan Amina Bruno Carla Chen Dario Edith Emil Farah Felix Grace Hana Hugo Ines Ivan Jonas Kira Lena Luca Maya "
    "Milo Nadia Noor Omar Paula Priya Rosa Samir Tara Viktor Yara"
)
_ITEMS = (
    "apples beads books buttons cards chestnuts coins cookies marbles mushrooms oranges pears pebbles pencils plums "
    "postcards shells stamps stickers tomatoes walnuts"
)
NAMES = _NAMES.split()
ITEMS = _ITEMS.split()
DEFAULT_RANGE = (2, 20)


@dataclass(frozen=True, slots=True)
class Template:
    text: str
    steps: tuple[str, ...]
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


TEMPLATES = (
    # one step
    Template(
        "{name} has {some} {item} and buys {more} more. How many {item} does {name} have now?",
        ("now = some + more",),
        {"some": (3, 99), "more": (3, 99)},
    ),
    Template(
        "{name} packs {boxes} boxes with {each} {item} in each box. How many {item} does {name} pack in all?",
        ("all = boxes * each",),
        {"each": (3, 40)},
    ),
    Template(
        "{name} shares {total} {item} equally among {friends} friends. How many {item} does each friend get?",
        ("share = total / friends",),
        {"total": (12, 144), "friends": (2, 12)},
    ),
    # two steps
    Template(
        "{name} buys {boxes} boxes of {item} with {each} in each box and gives away {given} of them. "
        "How many {item} are left?",
        ("all = boxes * each", "left = all - given"),
        {"given": (5, 60)},
    ),
    Template(
        "{name} reads {pages} pages a day for {days} days and then {more} pages on the weekend. "
        "How many pages does {name} read altogether?",
        ("week = pages * days", "all = week + more"),
        {"pages": (8, 60), "days": (2, 6), "more": (10, 90)},
    ),
    Template(
        "{name} picks {first} {item} and {other} picks {second} {item}. They share them equally between the two of "
        "them. How many {item} does each of them get?",
        ("together = first + second", "half = together / 2"),
        {"first": (4, 80), "second": (4, 80)},
    ),
    # three steps
    Template(
        "A museum ticket costs {adult} dollars for an adult and {child} dollars for a child. {name} buys tickets for "
        "{adults} adults and {children} children. How many dollars does {name} pay?",
        ("a = adult * adults", "c = child * children", "pay = a + c"),
        {"adult": (9, 25), "child": (3, 8)},
    ),
    Template(
        "{name} earns {wage} dollars an hour and works {hours} hours a day for {days} days. After buying a bicycle "
        "for {price} dollars, how many dollars does {name} have left?",
        ("day = wage * hours", "all = day * days", "left = all - price"),
        {"wage": (11, 35), "hours": (3, 8), "days": (3, 9), "price": (80, 600)},
    ),
    Template(
        "A bakery bakes {trays} trays of {each} rolls. It sells {sold} rolls in the morning and packs the rest into "
        "bags of {bag}. How many bags does it fill?",
        ("all = trays * each", "rest = all - sold", "bags = rest / bag"),
        {"trays": (4, 20), "each": (12, 36), "sold": (10, 90), "bag": (2, 9)},
    ),
    # four steps
    Template(
        "{name} saves {week} dollars a week for {weeks} weeks, and {other} saves {more} dollars a week more than "
        "{name} for the same time. How many dollars do they have together?",
        ("otherweek = week + more", "one = week * weeks", "two = otherweek * weeks", "both = one + two"),
        {"week": (5, 45), "weeks": (3, 26)},
    ),
    Template(
        "A farm has {cows} cows and {hens} hens. Each cow eats {hay} kilos of feed a day and each hen eats {grain} "
        "kilos a day. How many kilos of feed does the farm need for {days} days?",
        ("c = cows * hay", "h = hens * grain", "day = c + h", "all = day * days"),
        {"cows": (3, 40), "hens": (5, 60), "hay": (9, 20), "grain": (2, 4), "days": (2, 14)},
    ),
    Template(
        "A bus leaves with {start} passengers. At the first stop {off} get off and {on} get on, and at the second "
        "stop {offtwo} get off and {ontwo} get on. How many passengers are on the bus then?",
        ("a = start - off", "b = a + on", "c = b - offtwo", "d = c + ontwo"),
        {"start": (20, 60)},
    ),
    # five steps
    Template(
        "{name} sells {cups} cups of lemonade for {price} dollars each and {cakes} cakes for {cakeprice} dollars "
        "each. The ingredients cost {cost} dollars and the stall costs {rent} dollars. How many dollars of profit "
        "does {name} make?",
        ("a = cups * price", "b = cakes * cakeprice", "income = a + b", "gross = income - cost", "net = gross - rent"),
        {"cups": (15, 90), "price": (2, 5), "cakeprice": (6, 24), "cost": (11, 60), "rent": (10, 70)},
    ),
    Template(
        "A school orders {boxes} boxes with {each} pencils in each box. {broken} pencils arrive broken and {staff} "
        "pencils go to the teachers. The rest is divided equally among {classes} classes, and each class puts "
        "{spare} pencils aside. How many pencils does each class have left to use?",
        ("all = boxes * each", "good = all - broken", "rest = good - staff", "a = rest / classes", "use = a - spare"),
        {"boxes": (10, 40), "each": (12, 48), "classes": (3, 9)},
    ),
    Template(
        "A tank holds {litres} litres of water. A pump adds {pump} litres a minute while a leak loses {leak} litres "
        "a minute, and this goes on for {minutes} minutes. Then {name} fills {cans} cans of {can} litres each from "
        "the tank. How many litres are left in the tank?",
        (
            "net = pump - leak",
            "added = net * minutes",
            "full = litres + added",
            "out = cans * can",
            "left = full - out",
        ),
        {"litres": (100, 600), "pump": (9, 40), "leak": (2, 8), "minutes": (5, 45), "can": (3, 15)},
    ),
    # six steps
    Template(
        "{name} finds {first} {item} a day for {days} days and {other} finds {second} {item} a day for {daystwo} "
        "days. They give {given} of them to a museum and divide the rest equally among {friends} friends, each of "
        "whom already has {had} {item}. How many {item} does each friend have in the end?",
        (
            "a = first * days",
            "b = second * daystwo",
            "all = a + b",
            "rest = all - given",
            "share = rest / friends",
            "end = share + had",
        ),
        {"friends": (2, 8), "given": (5, 50)},
    ),
    Template(
        "A cinema has {rows} rows of {seats} seats. At the evening show {empty} seats stay empty. {children} of the "
        "visitors are children, who pay {child} dollars each, and all the others pay {adult} dollars each. How many "
        "dollars does the cinema take?",
        (
            "all = rows * seats",
            "visitors = all - empty",
            "adults = visitors - children",
            "a = adults * adult",
            "c = children * child",
            "take = a + c",
        ),
        {"rows": (8, 24), "seats": (10, 30), "children": (9, 50), "child": (3, 7), "adult": (8, 15)},
    ),
    Template(
        "A factory runs {machines} machines that each make {rate} parts an hour, {hours} hours a day. Every day "
        "{bad} parts fail the inspection. After {days} days the good parts are packed into crates of {crate}, and "
        "all but {kept} crates are shipped. How many crates are shipped?",
        (
            "hourly = machines * rate",
            "daily = hourly * hours",
            "good = daily - bad",
            "all = good * days",
            "crates = all / crate",
            "shipped = crates - kept",
        ),
        {"rate": (10, 60), "hours": (6, 16), "bad": (5, 90), "crate": (5, 12)},
    ),
)
