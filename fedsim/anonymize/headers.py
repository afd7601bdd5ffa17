"""What a column probably holds, by its name: in English, German, French, Spanish, Italian, Dutch.

A guess for a draft that a person confirms, and for the checklist of a report; nothing is let out
because of it.
"""

import re
import unicodedata
from dataclasses import dataclass

from fedsim.anonymize.schema import Role

__all__ = ["KINDS", "Kind", "kind_of"]


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of column: its usual role, and the words that names of such columns have.

    Words are without accents and in lower case; `a b` stands for both, one after the other, also
    where the name writes them together.
    """

    name: str
    role: Role
    title: str
    words: tuple[str, ...]


# In this order: "date of birth" is a birth before it is a date, "phone number" no record number.
_KINDS: tuple[tuple[str, Role, str, str], ...] = (
    ("email", "direct", "an e-mail address", "email, mail, courriel, correo"),
    ("fax", "direct", "a fax number", "fax, telefax"),
    ("phone", "direct", "a telephone number",
     "phone, telephone, tel, mobile, cell, telefon, handy, mobil, portable, telefono, movil, "
     "cellulare, telefoon"),
    ("ip", "direct", "an internet address", "ip, ip address, ip adresse"),
    ("url", "direct", "a web address", "url, website, homepage, web"),
    ("account", "direct", "an account number",
     "iban, bic, account, account number, konto, kontonummer, compte, cuenta, conto, rekening, "
     "credit card, card number, kreditkarte"),
    ("plan", "direct", "a number of an insured person",
     "insurance number, policy, policy number, versichertennummer, versicherungsnummer, "
     "member id, beneficiary"),
    ("licence", "direct", "a licence or a passport",
     "licence, license, passport, reisepass, fuhrerschein, permis, pasaporte, passaporto, "
     "paspoort, certificate number"),
    ("vehicle", "direct", "a vehicle",
     "vin, plate, license plate, kennzeichen, matricula, targa"),
    ("device", "direct", "a device", "device id, serial number, imei, mac address, udi"),
    ("biometric", "direct", "biometrics", "fingerprint, biometric, voiceprint, iris scan"),
    ("photo", "direct", "a picture", "photo, picture, portrait, foto, bild"),
    ("national id", "direct", "a national number",
     "ssn, social security, nino, national insurance, nhs, nhs number, steuer id, "
     "steuernummer, "
     "sozialversicherungsnummer, ahv, nir, insee, dni, nif, nie, codice fiscale, bsn, pesel, "
     "cpf, aadhaar, personnummer, tax id, national id"),
    ("record", "direct", "a number of a record or of a person",
     "mrn, medical record, record number, patient id, patient number, patientennummer, "
     "patient nr, fallnummer, case id, case number, person id, user id, customer id, "
     "client id, employee id, subject id, participant id, kundennummer, personalnummer, id, "
     "uuid, guid, identifier, identifiant, identificador, identificativo, kennung, pid"),
    ("birth", "quasi", "a date of birth",
     "birth, birthday, birthdate, dob, date of birth, geburtsdatum, geburtstag, geboren, "
     "naissance, date naissance, nacimiento, nascita, geboortedatum"),
    ("zip", "quasi", "a postal code",
     "zip, zipcode, zip code, postal, postcode, plz, postleitzahl, code postal, "
     "codigo postal, cap"),
    ("street", "direct", "an address",
     "address, street, addr, adresse, strasse, str, rue, direccion, calle, indirizzo, via, "
     "adres, straat, house number, hausnummer"),
    ("name", "direct", "a name",
     "name, names, first name, last name, surname, given name, family name, full name, "
     "fullname, firstname, lastname, vorname, nachname, familienname, nom, prenom, nombre, "
     "apellido, apellidos, cognome, naam, voornaam, achternaam, patient name"),
    ("age", "quasi", "an age", "age, alter, edad, eta, leeftijd, age years, age at"),
    ("sex", "quasi", "a sex or gender",
     "sex, gender, geschlecht, sexe, sexo, genre, sesso, geslacht"),
    ("race", "quasi", "an origin",
     "race, ethnicity, ethnic, ethnie, etnia, nationality, nationalitat, nationalite, "
     "nacionalidad, nazionalita, staatsangehorigkeit, native country, birthplace, geburtsort"),
    ("religion", "quasi", "a religion", "religion, konfession, religione, godsdienst"),
    ("place", "quasi", "a place",
     "city, town, county, state, province, region, country, stadt, ort, wohnort, land, kreis, "
     "bundesland, ville, pays, departement, ciudad, pais, provincia, citta, paese, stad, "
     "gemeente, district, location"),
    ("family", "quasi", "a family status",
     "marital, marital status, familienstand, etat civil, estado civil, stato civile, "
     "burgerlijke staat, relationship, children, kinder"),
    ("work", "quasi", "an occupation or education",
     "occupation, job, profession, employer, workclass, work class, beruf, arbeitgeber, "
     "metier, profesion, empleo, professione, beroep, education, schooling, degree, bildung, "
     "abschluss, educacion, istruzione, opleiding"),
    ("language", "quasi", "a language", "language, sprache, langue, idioma, lingua, taal"),
    ("body", "quasi", "what can be seen of a person",
     "height, weight, bmi, grosse, gewicht, taille, poids"),
    ("sensitive", "sensitive", "what people keep to themselves",
     "diagnosis, diagnose, diagnostic, diagnostico, diagnosi, disease, illness, condition, "
     "icd, "
     "icd10, hiv, cancer, disorder, krankheit, maladie, enfermedad, malattia, ziekte, "
     "medication, drug, treatment, procedure, prescription, medikament, therapie, "
     "symptom, allergy, outcome, result, befund, mortality, death, salary, income, wage, "
     "salary class, gehalt, einkommen, salaire, revenu, salario, ingreso, stipendio, reddito, "
     "inkomen, debt, default, target, num"),
    ("date", "quasi", "a date",
     "date, datum, fecha, admission, discharge, visit, aufnahme, entlassung, timestamp, "
     "time, year, jahr, annee, ano, anno, jaar"),
)  # fmt: skip
KINDS = tuple(
    Kind(name, role, title, tuple(words.split(", "))) for name, role, title, words in _KINDS
)


def kind_of(header: str) -> Kind | None:
    """Return the kind of column that a name stands for, or None.

    >>> kind_of("PatientName").name, kind_of("Geburtsdatum").name, kind_of("chol")
    ('name', 'birth', None)
    """
    words = _words(header)
    text = " ".join(words)
    for kind in KINDS:  # the whole name first: "name of drug" is asked of its words only
        if text in kind.words or text.replace(" ", "") in _joined(kind):
            return kind
    found = [kind for kind in KINDS if any(f" {word} " in f" {text} " for word in kind.words)]
    return found[0] if found else None


def _joined(kind: Kind) -> set[str]:
    return {word.replace(" ", "") for word in kind.words}


def _words(header: str) -> list[str]:
    """Return the words of a name: camelCase and punctuation part them, accents are dropped."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", header)
    plain = unicodedata.normalize("NFKD", spaced.replace("ß", "ss").replace("ẞ", "ss"))
    letters = "".join(c for c in plain if not unicodedata.combining(c)).lower()
    return [word for word in re.split(r"[^a-z0-9]+", letters) if word]
