"""Writes chat-templates.golden.json: what transformers' Jinja makes of templates.

    $GRAFT_ORACLE_PYTHON tests/io/chat-templates.golden.py
"""

import json
import sys
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

sys.path.insert(0, str(Path(__file__).parent))
from chat_families import CHATS, FAMILIES, OPTIONS  # noqa: E402

VARIABLES = {
    "s": "  xx hello, World xx\n",
    "code": "\n\n    return 1\n",
    "u": "naïve 👋 ſ ÅÉ",
    "n": 7,
    "f": 2.5,
    "tiny": 1e-7,
    "t": True,
    "nothing": None,
    "l": [3, 1, 2],
    "words": ["b", "A", "c", "a"],
    "d": {"b": 1, "a": {"x": [True, None, 1.5, "q'\"\n"]}, "items": 5, "É": "<&>"},
    "people": [
        {"name": "Ann", "age": 3, "tags": ["x"]},
        {"name": "bob", "age": 1},
        {"name": "Cid", "age": 3, "tags": []},
    ],
    "empty": [],
}

# A line is a template; ␤ stands for a newline of the template.
FEATURES = r"""
{{ s.strip() }}|{{ s.lstrip() }}|{{ s.rstrip() }}|
{{ code.strip('\n') }}|{{ code.lstrip('\n') }}|{{ code.rstrip('\n') }}|
{{ s.strip(' x') }}|{{ s.lstrip('x ') }}|{{ s.rstrip('\nx') }}|{{ s.strip(none) }}|
{{ s.split() }}{{ s.split(' ') }}{{ s.split(None, 1) }}{{ s.split('x', 1) }}{{ s.split(',', maxsplit=1) }}
{{ s.rsplit() }}{{ s.rsplit('x', 1) }}{{ s.rsplit(None, 1) }}{{ s.rsplit(maxsplit=1) }}
{{ s.find('hello') }} {{ s.find('z') }} {{ s.rfind('x') }} {{ s.find('x', 4) }} {{ u.find('ſ') }} {{ s.index('h') }}
{{ s.index('z') }}
{{ s.partition(', ') }}{{ s.rpartition('x') }}{{ s.partition('?') }}{{ s.rpartition('?') }}
{{ s.startswith(('a', '  x')) }}{{ s.startswith('x') }}{{ s.endswith(('q', '\n')) }}{{ s.startswith(' x', 1) }}
{{ s.startswith(['a']) }}
{{ s.count('x') }}{{ s.upper() }}{{ s.title() }}{{ 'hELLO wORLD'.capitalize() }}{{ 'aB'.swapcase() }}{{ "they're o'k x2y".title() }}
{{ 'a-b'.replace('-', '+') }}{{ 'aaa'.replace('a', 'b', 2) }}{{ 'ab'.replace('', '.') }}{{ 'abc' | replace('b', '') }}{{ 'aaa' | replace('a', 'b', count=1) }}
{{ 'ab'.center(5) }}|{{ 'ab'.center(6, '*') }}|{{ 'abc'.center(6) }}|{{ 'ab'.ljust(4) }}|{{ 'ab'.rjust(4, '0') }}|{{ '-7'.zfill(4) }}
{{ 'a\nb\r\nc'.splitlines() }}{{ 'a\nb'.splitlines(true) }}{{ ','.join(['a', 'b']) }}{{ '-'.join('abc') }}
{{ 'abc'.isalpha() }}{{ 'a1'.isalnum() }}{{ '12'.isdigit() }}{{ ' '.isspace() }}{{ 'AB'.isupper() }}{{ 'aB'.islower() }}{{ ''.isalpha() }}{{ 'Ab Cd'.istitle() }}
{{ 'prefix-x'.removeprefix('prefix-') }}{{ 'x.py'.removesuffix('.py') }}{{ 'ẞ'.casefold() }}{{ 'a\tb'.expandtabs(4) }}
{{ '{} and {}'.format(1, 'a') }} {{ '{1}{0}{x}'.format('a', 'b', x=n) }} {{ '{:.2f}|{:>5}|{:<5}|{:^5}'.format(f, 'a', 'b', 'c') }}
{{ '%.1f %.1f %.0f %e %g %g %+g' % (1.25, -1.25, 2.5, 12345.678, 0.0001, 0.00001, 3) }}{{ '{:,} {:,.2f} {:.1%} {:08.2f} {:e} {:05}'.format(1234567, 1234.5, 0.5, -3.14159, 1.5, 42) }}
{{ '%s-%d-%.2f-%r-%%' % ('a', 3, f, 'b') }} {{ '%s' % n }} {{ '%5d|%-5d|%05d' % (n, n, n) }}
{{ 7 % 3 }} {{ -7 % 3 }} {{ 7 % -3 }} {{ 7.5 % 2 }} {{ -7 // 2 }} {{ 7 // 2.0 }} {{ 7 / 2 }} {{ 4 / 2 }} {{ 2 ** 3 }} {{ 2 ** -1 }} {{ -2 ** 2 }}
{{ 1 / 0 }}
{{ 'ab' * 3 }}{{ 3 * 'x' }}{{ '=' * 0 }}{{ [1] * 2 }}{{ 'x' * -1 }}
{{ 1 ~ 2 }}{{ none ~ true }}{{ [1, 'a'] ~ {'b': none} }}{{ missing ~ 'x' }}
{{ 1 + 2.0 }} {{ true + 1 }} {{ [1] + [2] }} {{ (1,) + (2,) }} {{ 0.1 + 0.2 }} {{ 1_000 }} {{ 1e3 }} {{ 1.5e-7 }} {{ 0x1f }}
{{ 'a' + 1 }}
{{ 'a' + none }}
{{ max(1, 2) }}
{{ [1, 3, 2] | max }}{{ l | min }}{{ words | max }}{{ people | max(attribute='age') }}{{ empty | max }}
{{ true }} {{ false }} {{ none }} {{ t }} {{ nothing }} {{ True }} {{ None }} {{ not t }}
{{ [true, none, 1, 2.0, 'a', "it's", 'say "x"', 'both\'"', '\n\t\\'] }}
{{ d }}{{ d.a }}{{ {} }}{{ [] }}{{ () }}{{ (1,) }}{{ (1, 'a') }}{{ {'a': 1, 2: none, true: 'x'} }}
{{ f }} {{ tiny }} {{ 1e16 }} {{ 1.0 }} {{ 100000.0 }} {{ 123456789012345680.0 }} {{ 1e22 }} {{ 0.0001 }} {{ 0.00001 }} {{ -0.0 }}
{{ [u, 'é', '\u200b', '\x00', '\ud7ff'] }}
{{ l[0] }}{{ l[-1] }}{{ l[1:] }}{{ l[:-1] }}{{ l[::-1] }}{{ l[::2] }}{{ l[5:] }}{{ l[-2:] }}{{ l[2:0:-1] }}{{ l[:] }}{{ l[10] }}
{{ s[2:4] }}|{{ u[6] }}|{{ u[::-1] }}|{{ s[-3:] }}|{{ u[-1] }}|{{ u | length }}|{{ (1,2,3)[1:] }}|{{ range(5)[1:3] | list }}
{{ missing }}|{{ d.missing }}|{{ d['missing'] }}|{{ l.x }}|{{ s.nope }}|{{ nothing.x }}|{{ n.x }}
{{ missing.x }}
{{ missing.x is defined }}
{{ d.missing.x }}
{{ missing + 1 }}
{{ missing() }}
{{ d.missing() }}
{{ nothing.strip() }}
{{ missing | length }}{{ missing | list }}{{ missing | upper }}{{ missing | join }}{% for x in missing %}x{% endfor %}{{ missing == nope }}{{ missing == none }}
{{ missing | default('x') }}{{ '' | default('x') }}{{ '' | default('x', true) }}{{ nothing | default('x') }}{{ none | d('x', boolean=true) }}{{ d.missing | default({}) }}
{{ d.items() | list }}{{ d['items'] }}{{ d.get('b') }}{{ d.get('z') }}{{ d.get('z', 5) }}{{ d.keys() | list }}{{ d.values() | list | length }}
{{ d.items() }}{{ d.keys() }}{{ {'a': 1}.values() }}{{ range(3) }}{{ range(1, 7, 2) }}
{% set _ = d.update({'z': 1}) %}{{ d.z }}
{{ d.pop('b') }}
{{ l.append(1) }}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c in 'ab' %}{{ c }}.{% endfor %}
{% for k, v in d|dictsort %}{{ k }}{% endfor %}{{ {'B': 1, 'a': 2} | dictsort }}{{ {'B': 1, 'a': 2} | dictsort(true) }}{{ {'B': 2, 'a': 1} | dictsort(by='value', reverse=true) }}
{{ 'b' in d }}{{ 'z' not in d }}{{ 1 in l }}{{ 'll' in s }}{{ 2.0 in l }}{{ 'a' in ('a', 'b') }}{{ none in [none] }}{{ 'a' in missing }}
{{ 1 in 'a' }}
{{ 1 < 2 < 3 }}{{ 1 < 3 < 2 }}{{ 3 > 2 >= 2 == 2 }}{{ 1 == 1.0 }}{{ '1' == 1 }}{{ true == 1 }}{{ [1, [2]] == [1, [2]] }}{{ {'a': 1} == {'a': 1.0} }}{{ (1,) == [1] }}{{ 'a' < 'b' }}{{ [1, 2] < [1, 3] }}
{{ 1 < 'a' }}
{{ 'x' if false }}|{{ 'a' if t else 'b' }}|{{ 'a' if not t else 'b' if n else 'c' }}|{{ ('x' if false) is defined }}|{{ (1 if false) | default('none') }}
{{ 1 and 2 }}{{ 0 or 'x' }}{{ '' and 1 }}|{{ not '' }}{{ not not [] }}{{ none or false }}{{ 1 and not 2 }}{{ not 1 in l }}{{ n is none or n > 3 }}
{{ n is odd }}{{ n is even }}{{ n is divisibleby 7 }}{{ n is divisibleby(2) }}{{ n is number }}{{ f is float }}{{ n is integer }}{{ t is integer }}{{ t is number }}{{ t is boolean }}
{{ s is string }}{{ d is mapping }}{{ l is sequence }}{{ d is sequence }}{{ s is iterable }}{{ n is iterable }}{{ nothing is none }}{{ missing is none }}{{ missing is undefined }}{{ d.b is defined }}{{ d is callable }}{{ range is callable }}
{{ n is eq 7 }}{{ n is equalto(8) }}{{ n is gt 3 }}{{ n is lt(3) }}{{ n is ne 7 }}{{ n is ge 7 }}{{ 3 is in l }}{{ 3 is not in l }}{{ 'a' is in('abc') }}{{ t is true }}{{ t is not false }}{{ nothing is sameas none }}{{ 'a' is lower }}{{ 'A1' is upper }}
{{ n is not none and s is string }}{{ 'upper' is filter }}{{ 'odd' is test }}{{ -1 is odd }}
{{ n is defined is true }}
{{ s | trim }}|{{ s | trim(' x\n') }}|{{ ' é ' | trim | upper }}|{{ s | trim | length }}|{{ s.strip() | replace('x', 'y') }}|{{ s | trim | truncate(8) }}|{{ s | trim | truncate(8, true, '') }}
{{ 'hello wORLD foo-bar' | title }}{{ 'hELLO' | capitalize }}{{ 5 | string ~ 'x' }}{{ none | string }}{{ 'abc' | reverse }}{{ l | reverse | list }}{{ 'a b' | wordcount }}{{ 'x' | center(5) }}|
{{ '3' | int }}{{ ' 4 ' | int }}{{ '3.7' | int }}{{ 'x' | int }}{{ 'x' | int(9) }}{{ 3.9 | int }}{{ 'ff' | int(base=16) }}{{ '2.5' | float }}{{ 'x' | float }}{{ 3 | float }}{{ none | int }}{{ true | int }}
{{ -3 | abs }}{{ 2.5 | round }}{{ 3.5 | round }}{{ 2.567 | round(2) }}{{ 2.51 | round(1, 'floor') }}{{ 2.1 | round(method='ceil') }}{{ 7 | round }}{{ 1.005 | round(2) }}{{ -2.5 | abs }}
{{ l | join }}{{ l | join(', ') }}{{ people | join(',', attribute='name') }}{{ [1, none, true] | join('-') }}{{ 'abc' | join('.') }}
{{ l | first }}{{ l | last }}{{ empty | first }}{{ 'abc' | first }}{{ l | length }}{{ d | length }}{{ l | count }}{{ l | list }}{{ 'ab' | list }}{{ d | list }}{{ d | first }}
{{ l | sort }}{{ words | sort }}{{ words | sort(case_sensitive=true) }}{{ l | sort(reverse=true) }}{{ people | sort(attribute='age') | map(attribute='name') | list }}{{ people | sort(attribute='age,name') | map(attribute='name') | join }}
{{ people | map(attribute='name') | list }}{{ words | map('upper') | list }}{{ people | map(attribute='tags', default='-') | list }}{{ l | map('string') | join }}{{ people[:1] | map(attribute='tags.0') | list }}
{{ people | map(attribute='tags.0') | list }}
{{ people | selectattr('tags') | list | length }}{{ people | selectattr('age', 'equalto', 3) | map(attribute='name') | list }}{{ people | rejectattr('age', 'gt', 2) | list }}{{ people | selectattr('tags', 'defined') | list | length }}
{{ l | select('odd') | list }}{{ l | reject('odd') | list }}{{ [0, 1, ''] | select | list }}{{ l | select('>', 1) | list }}{{ l | select('in', [1, 2]) | list }}
{{ (l | select('odd')) | length }}
{{ [1, 2, 1, 'a', 'A'] | unique | list }}{{ l | sum }}{{ people | sum(attribute='age') }}{{ [0.5, 1] | sum }}{{ l | sum(start=10) }}
{% for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | length }};{% endfor %}{% for k, v in people | groupby('age') %}{{ k }}={{ v | map(attribute='name') | join }};{% endfor %}
{% for row in range(5) | batch(2) %}{{ row }}{% endfor %}{% for row in range(5) | batch(2, 'x') %}{{ row }}{% endfor %}{% for row in range(5) | slice(3) %}{{ row }}{% endfor %}{% for row in range(4) | slice(3, 'x') %}{{ row }}{% endfor %}
{{ 'a\nb\n\nc' | indent }}|{{ 'a\nb' | indent(2, true) }}|{{ 'a\n\nb' | indent(2, blank=true) }}|{{ 'a\nb' | indent('> ') }}|{{ 'a\nb\n' | indent(2, first=true) }}
{{ '<a href="x">\'&' | escape }}{{ '<b>' | safe }}{{ '<b>x</b>  y' | striptags }}{{ 'a b&c/d' | urlencode }}{{ {'a': 1, 'b': 'x y'} | urlencode }}{{ '%s=%s' | format('a', 1) }}
{{ d | tojson }}{{ [1, 2.0, true, none, 'é<'] | tojson }}{{ 'a"\\\n\x7f\u2028' | tojson }}{{ {} | tojson }}{{ [] | tojson(indent=2) }}{{ (1, 2) | tojson }}
{{ d | tojson(indent=2) }}
{{ d | tojson(ensure_ascii=true) }}{{ '👋' | tojson(ensure_ascii=true) }}{{ d | tojson(separators=(',', ':')) }}{{ d | tojson(indent=4, separators=(', ', ': ')) }}
{{ d | tojson(sort_keys=true) }}{{ {'b': 1, 'a': [{}]} | tojson(false, 1) }}{{ tiny | tojson }}{{ 1e16 | tojson }}{{ l | tojson(indent=0) }}
{{ missing | tojson }}
{{ d | items | list | length }}{{ d | attr('get') is callable }}{{ 'abc' | batch(2) | list }}{{ dict(a=1, b=2) }}{{ dict([('a', 1)]) }}
{{ s | nofilter }}
{% if s is notest %}{% endif %}
{% raw %}{{ not }} {% if %}{% endraw %}|{%- raw -%}  x {{ y }} {%- endraw %}|{% raw %}␤ a{% endraw %}
{% set x = 1 %}{% for i in l %}{{ x }}{% set x = i %}{% endfor %}{{ x }}
{% set ns = namespace(a=1, found=false) %}{% for i in l %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}{{ ns.found }}{{ ns.nope }}|{% set ns.b = [1] %}{{ ns.b }}
{% set d.x = 1 %}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, e) = (3, 4) %}{{ c }}{{ e }}{% set t = 1, %}{{ t }}
{% set a, b = [1] %}
{% set x %}block {{ n }}␤{% endset %}[{{ x }}]{% set y | upper | trim %} abc {% endset %}[{{ y }}]
{% if t %}{% set x = 5 %}{% endif %}{{ x }}{% for i in [1] %}{% set z = 1 %}{% endfor %}{{ z }}
{% for i in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.depth }}{{ loop.previtem }}/{{ loop.nextitem }};{% endfor %}
{% for i in l %}{{ loop.previtem is defined }}{{ loop.nextitem is undefined }}{{ loop.cycle('a', 'b') }}{{ loop.changed(i > 1) }}{% endfor %}
{% for i in range(6) %}{% if i == 4 %}{% break %}{% endif %}{% if i % 2 %}{% continue %}{% endif %}{{ i }}{% else %}none{% endfor %}
{% for i in [] %}x{% else %}empty{% endfor %}{% for i in l if i > 1 %}{{ i }}{{ loop.index }}{% else %}none{% endfor %}{% for i in l if i > 9 %}{% else %}none{% endfor %}{% for i in [1] %}{% continue %}{% else %}e{% endfor %}
{% for i in l %}{% for j in l %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for i in [[1, [2]], 3] recursive %}{% if i is iterable %}<{{ loop(i) }}>{% else %}{{ i }}@{{ loop.depth }}{% endif %}{% endfor %}
{% for i in n %}{% endfor %}
{% for i in nothing %}{% endfor %}
{% for a, b in l %}{% endfor %}
{% macro m(a, b=2, c=none) %}{{ a }}-{{ b }}-{{ c }}{% endmacro %}{{ m(1) }};{{ m(1, c=3) }};{{ m() }};{{ m(1, 2, 3) | upper }};{{ m.name }}
{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{% endmacro %}{{ m(b=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}{{ m(*[1, 2], **{'y': 1}) }}
{% macro f(n) %}{{ n }}{% if n > 0 %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}{% macro g() %}{{ later }}{% endmacro %}{% set later = 'L' %}{{ g() }}
{% macro m(x) %}[{{ caller(x) }}]{% endmacro %}{% call(y) m(3) %}y={{ y }}{% endcall %}{% call(a, b=2) m(1) %}{{ a }}{{ b }}{% endcall %}
{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}{% call m() %}{% endcall %}
{% macro outer(x) %}{% set q = x %}{{ inner() }}{% endmacro %}{% macro inner() %}{{ q is defined }}{% endmacro %}{{ outer(1) }}
{% filter upper | trim %} abc {{ n }} {% endfilter %}{% with a = 1, b = 2 %}{{ a }}{{ b }}{% set a = 3 %}{% endwith %}{{ a }}
{% generation %}x{{ n }}{% endgeneration %}{%- generation -%} y {%- endgeneration -%} z
a  {%- if t %} b {% endif -%}  c {{- ' d ' -}} e {#- comment -#} f
a␤  {% if t %}␤b␤  {% endif %}␤c␤{{ n }}␤d
   {% if t %}x{% endif %}␤  {{ n }}  ␤  {# c #}␤  y
   {%+ if t %}x{% endif +%}␤  y {%+ if t +%}␤z{% endif %}
{% if t -%}␤␤   a␤{%- endif %}␤␤b␤
{% if f > 2 and (n == 7 or false) %}a{% elif n %}b{% else %}c{% endif %}{% if empty %}x{% elif d %}y{% endif %}{% if not missing %}z{% endif %}
{% for m in messages %}{{ m['role'] + ':' + m.content }}{% if not loop.last %}{{ '\n' }}{% endif %}{% endfor %}
{{ messages[0].role }}{{ messages[-1]['content'] }}{{ messages | length }}{{ messages[1:] | map(attribute='role') | list }}{{ (messages | last).role }}{{ messages.0.role }}
{{ raise_exception('Roles must alternate: ' ~ n) }}
{% if false %}{{ raise_exception('x') }}{% endif %}ok
{{ range(3) | list }}{{ range(5, 0, -2) | list }}
{{ range(200001) | length }}
{{ joiner('|')() }}{% set j = joiner('|') %}{{ j() }}a{{ j() }}b
{{ 'a' 'b' }}{{ "it\'s" }}{{ 'tab\tend' }}{{ '\u00e9\x41\101' }}{{ 'a\d\q' }}{{ 'line\␤continued' }}
{{ {'a': {'b': [1, 2]}}.a.b[1] }}{{ [[1, 2], [3]][0][1] }}{{ 'abc'[1] }}{{ ('a', 'b')[0] }}{{ d['a']['x'][3] }}{{ {1: 'x'}[1] }}
{{ l is iterable and l is not string }}{{ (n + 1) * 2 }}{{ n + 1 * 2 }}{{ -n + 1 }}{{ - n }}{{ +n }}{{ 2 - -1 }}{{ n-1 }}
{{ 1, 2 }}{{ (1) }}{{ [1, 2,] }}{{ {'a': 1,} }}{{ [] or {} }}
{{ s | trim | upper ~ '!' }}{{ 'a' if 'b' in 'abc' else 'c' }}{{ (l | sort)[0] }}{{ l | sort | first }}{{ not l | length == 0 }}
{% set content = messages[0].content if messages[0].content is string else '' %}{{ content }}{% set x = x or 'default' %}{{ x }}
{{ '' if nothing is none else nothing }}{{ d.a.x | select('none') | list }}{{ d.a.x | tojson | length }}{{ people[0] | items | map('first') | list }}
{{ namespace() }}
{% if %}
{% for x in %}{% endfor %}
{{ }}
{% unknown %}
{{ 'open
{% if t %}
{{ (1 }}
{{ 1 + }}
{{ a b }}
""".strip("\n").split("\n")

MESSAGES = [
    {"role": "user", "content": "Hi {{ x }} <b>"},
    {"role": "assistant", "content": "  Hello\n\n    code"},
]


def render(template, messages, **variables):
    try:
        texts, spans = render_jinja_template(
            [messages], chat_template=template, return_assistant_tokens_mask=True, **variables
        )
        return {"text": texts[0], **({"generated": spans[0]} if spans[0] else {})}
    except Exception as error:
        return {"error": type(error).__name__}


def features():
    for line in FEATURES:
        template = line.replace("␤", "\n")
        yield {"template": template, **render(template, MESSAGES, **VARIABLES)}


if __name__ == "__main__":
    families = {
        name: [
            render(template, chat, **{"bos_token": "<s>", "eos_token": "</s>", **options})
            for chat in CHATS
            for options in OPTIONS
        ]
        for name, template in FAMILIES.items()
    }
    result = {
        "variables": VARIABLES,
        "messages": MESSAGES,
        "features": list(features()),
        "chats": CHATS,
        "options": OPTIONS,
        "templates": FAMILIES,
        "families": families,
    }
    path = Path(__file__).with_suffix("").with_suffix(".golden.json")
    path.write_text(json.dumps(result, ensure_ascii=False, indent=1) + "\n")
